"""Masked images, against images that are put together pixel by pixel and shown one at a time."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import spex_core
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.stored import Stored
from spex_core.values import Isolated
from spex_core.values.image import ImageRegions

H, W = 9, 11


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(5 * 7 * 9, 4)
        )

    def forward(self, x):
        return self.body(x) * 3


IMAGE = torch.randn(2, H, W, generator=torch.Generator().manual_seed(1))
SEGMENTS = np.full((H, W), -1)
SEGMENTS[:4, :5], SEGMENTS[4:, 2:7], SEGMENTS[0, 9:] = 7, 3, 40


@pytest.fixture(scope="module")
def net():
    return Net().eval()


def some_masks(n, rows=12):
    masks = np.random.default_rng(n).random((rows, n)) < 0.5
    masks[0], masks[1], masks[-1] = True, False, masks[3]
    return masks


def blurred(image, sigma):
    """A Gaussian cut at three sigma, pixel by pixel, edges continued."""
    radius = math.ceil(3 * sigma)
    out = np.zeros(image.shape)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for i in range(H):
        for j in range(W):
            for a, wa in enumerate(weights):
                for b, wb in enumerate(weights):
                    y = min(max(i + a - radius, 0), H - 1)
                    x = min(max(j + b - radius, 0), W - 1)
                    out[:, i, j] += wa * wb * image[:, y, x].numpy()
    return out


FILLS = {
    "baseline": ({"baseline": [0.5, -2.0]}, lambda: np.array([0.5, -2.0])[:, None, None]),
    "mean": ({}, lambda: IMAGE.numpy().mean((1, 2), keepdims=True)),
    "blur": ({"blur": 1.3}, lambda: blurred(IMAGE, 1.3)),
}


def shown(owner, names, mask, absent):
    """One image: the pixels of present regions and of none, else what stands in."""
    fill = np.broadcast_to(FILLS[absent][1](), (2, H, W))
    image = IMAGE.numpy().copy()
    for i in range(H):
        for j in range(W):
            if owner[i][j] in names and not mask[names.index(owner[i][j])]:
                image[:, i, j] = fill[:, i, j]
    return torch.from_numpy(image)


def score(logits, kind, target):
    if kind == "probability":
        return float(logits.double().softmax(0)[target])
    others = [x for k, x in enumerate(logits.tolist()) if k != target]
    return float(logits[target]) - (max(others) if kind == "margin" else 0)


@pytest.mark.parametrize("absent", list(FILLS))
@pytest.mark.parametrize("kind", ["logit", "margin", "probability"])
@pytest.mark.parametrize("segments", [False, True])
def test_equal_to_one_image_at_a_time(net, absent, kind, segments):
    if segments:
        regions, owner, names = SEGMENTS, SEGMENTS, [3, 7, 40]
    else:
        regions = (2, 3)
        owner = [[3 * (i * 2 // H) + j * 3 // W for j in range(W)] for i in range(H)]
        names = list(range(6))
    options = FILLS[absent][0] | {"absent": absent, "score": kind, "target": 2}
    f = ImageRegions(net, IMAGE, regions, pixels=250, **options)
    masks = some_masks(len(names))
    with torch.no_grad():
        want = [score(net(shown(owner, names, mask, absent)[None])[0], kind, 2) for mask in masks]
    assert np.abs(f(masks) - want).max() <= 1e-6
    assert np.std(want) > 0.01


def test_names_target_and_custom_scores(net):
    f = ImageRegions(net, IMAGE, SEGMENTS)
    assert f.features == ("segment 3", "segment 7", "segment 40")
    with torch.no_grad():
        logits = net(IMAGE[None])[0]
    assert f(np.ones((1, 3), bool)) == pytest.approx([float(logits.max())], abs=1e-6)
    assert f.target == int(logits.argmax())
    grid = ImageRegions(net, IMAGE, (1, 2), score=lambda output: output[:, :2])
    assert grid.features == ("patch 0,0", "patch 0,1")
    assert np.abs(grid(np.ones((1, 2), bool))[0] - logits[:2].numpy()).max() <= 1e-6


def test_an_output_with_logits_and_a_numpy_image(net):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(Net):
        def forward(self, x):
            return Output(super().forward(x))

    masks = some_masks(3)
    f = ImageRegions(Wrapped(), IMAGE.numpy(), torch.from_numpy(SEGMENTS))
    assert np.array_equal(f(masks), ImageRegions(net, IMAGE, SEGMENTS)(masks))
    assert f.model.training  # was, and is again


def test_pixels_of_no_segment_are_always_shown(net):
    f = ImageRegions(net, IMAGE, SEGMENTS, baseline=9.0)
    nothing = f.images(np.zeros((1, 3), bool))[0]
    assert torch.equal(nothing[:, SEGMENTS < 0], IMAGE[:, SEGMENTS < 0])
    assert (nothing[:, SEGMENTS >= 0] == 9).all()


def test_a_forward_pass_holds_no_more_than_the_budget():
    sizes = []

    class Counted(Net):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    f = ImageRegions(Counted(), IMAGE, (3, 4), pixels=5 * H * W + 1, target=0)
    f(np.random.default_rng(0).random((103, 12)) < 0.5)
    assert max(sizes) == 5


def nan(output):
    return output[:, 0] * math.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": nan}, TypeError, "model must be an nn.Module, got function"),
        ({"image": IMAGE[0]}, ValueError, r"image must be floating point \(C, H, W\), got"),
        ({"image": IMAGE.long()}, ValueError, "image must be floating point.*torch.int64"),
        ({"image": IMAGE / 0}, ValueError, "image must be finite"),
        ({"regions": (2, 3, 4)}, ValueError, r"regions must be \(down, across\)"),
        ({"regions": (0, 3)}, ValueError, "down must be an integer >= 1 and <= 9, got 0"),
        ({"regions": (2, 12)}, ValueError, "across must be an integer >= 1 and <= 11, got 12"),
        ({"regions": SEGMENTS.T}, ValueError, r"the image's shape \(9, 11\), got \(11, 9\)"),
        ({"regions": SEGMENTS * 1.0}, TypeError, "regions must be integers, got float64"),
        ({"regions": SEGMENTS * 2}, ValueError, "regions must be >= -1, got -2"),
        ({"regions": np.full((H, W), -1)}, ValueError, "must have a label >= 0, got -1 only"),
        ({"absent": "noise"}, ValueError, "absent must be baseline, mean or blur, got 'noise'"),
        ({"baseline": [1.0, 2.0, 3.0]}, ValueError, "one for each of 2 channels"),
        ({"baseline": math.nan}, ValueError, "baseline must be one finite number"),
        ({"absent": "blur", "blur": 0}, ValueError, "blur must be a number > 0, got 0"),
        ({"score": "loss"}, ValueError, "score must be one of .* or a callable, got 'loss'"),
        ({"target": -1}, ValueError, "target must be an integer >= 0, got -1"),
        ({"pixels": 0}, ValueError, "pixels must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(net, change, error, message):
    with pytest.raises(error, match=message):
        ImageRegions(**{"model": net, "image": IMAGE, "regions": (2, 3)} | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"score": nan}, ValueError, "score must return finite numbers, got nan in row 0"),
        ({"score": lambda o: o[:1, 0]}, ValueError, r"each of 2 rows, got shape \(1,\)"),
        ({"score": lambda o: None}, TypeError, "score must return numbers"),
        ({"target": 4}, ValueError, "target must be one of 4 classes, got 4"),
        ({"model": nn.Flatten(0)}, ValueError, r"model must return one value or one array"),
        ({"model": nn.Identity()}, ValueError, r"model must return logits \(rows, classes\)"),
    ],
)
def test_bad_answers(net, change, error, message):
    f = ImageRegions(**{"model": net, "image": IMAGE, "regions": (1, 1), "target": 0} | change)
    with pytest.raises(error, match=message):
        f(np.array([[True], [False]]))


def test_the_margin_of_one_class_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * H * W, 1))
    with pytest.raises(ValueError, match="margin must have 2 or more classes"):
        ImageRegions(net, IMAGE, (1, 2), score="margin")(np.ones((1, 2), bool))


def test_the_fingerprint_is_of_all_that_values_depend_on(net):
    def make(model=net, image=IMAGE, regions=SEGMENTS, **options):
        return ImageRegions(model, image, regions, **options).fingerprint

    other = Net()
    with torch.no_grad():
        other.body[4].bias[1] += 1e-6
    different = [
        make(),
        make(other),
        make(image=IMAGE + 1e-6),
        make(regions=np.maximum(SEGMENTS, 0)),
        make(regions=(2, 3)),
        make(absent="mean"),
        make(absent="blur"),
        make(absent="blur", blur=2.0),
        make(baseline=0.1),
        make(score="margin"),
        make(score=nan),
        make(target=(ImageRegions(net, IMAGE, (1, 1))._class() + 1) % 4),
    ]
    assert len(set(different)) == len(different)
    assert make(Net(), pixels=100, threads=2) == different[0]


# The picture that results show


def small(channels=3, size=(6, 8), **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 1))
    image = torch.randn(channels, *size, generator=torch.Generator().manual_seed(2))
    return ImageRegions(net, image, **{"regions": (2, 2), "target": 0} | options)


def test_the_picture_is_the_image_and_its_features():
    labels = np.array([[-1, 7], [3, 7]]).repeat(3, 0).repeat(4, 1)
    shown = small(regions=labels).picture
    assert (shown.rgb.min(), shown.rgb.max()) == (0, 255)  # of numbers below 0 and above 1
    np.testing.assert_array_equal(shown.owner, np.where(labels < 0, 2, labels == 7))
    assert small(1).picture.rgb.shape == (6, 8, 3)
    assert small(2).picture is None
    assert small(size=(600, 512)).picture.rgb.shape == (200, 170, 3)


def test_explanations_have_the_picture(tmp_path):
    f = small()
    store = Store.open(tmp_path / "store", Manifest(f.fingerprint, f.features))
    with store, Isolated(f) as isolated:
        wrapped = [f, isolated, Stored(f, store)]
        found = [spex_core.proxyspex(each, n=f.n, budget=16) for each in wrapped]
    found += [spex_core.spex(f, budget=16), spex_core.explain(f, budget=16)]
    found += spex_core.proxyspex(small(score=lambda out: out.repeat(1, 2)), budget=16)
    for ex in found:
        np.testing.assert_array_equal(ex.picture.rgb, f.picture.rgb)
        np.testing.assert_array_equal(ex.picture.owner, f.picture.owner)
    assert spex_core.proxyspex(small(2), budget=16).picture is None
    assert spex_core.proxyspex(lambda m: m[:, 0] * 1.0, n=4, budget=16).picture is None


def test_a_saved_explanation_keeps_the_picture(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    ex = spex_core.proxyspex(small(), budget=16)
    ex.save(tmp_path / "ex.npz")
    again = spex_core.load(tmp_path / "ex.npz")
    np.testing.assert_array_equal(again.picture.rgb, ex.picture.rgb)
    pages = [tmp_path / "before.html", tmp_path / "after.html"]
    for each, page in zip((ex, again), pages, strict=True):
        each.to_html(page)
        assert "data:image/png;base64," in page.read_text("utf-8")
    assert pages[0].read_bytes() == pages[1].read_bytes()
    effects = [again.interactions("FBII").get((j,), 0.0) for j in range(4)]
    over = again.plot.image().images[1].get_array()
    np.testing.assert_array_equal(over, np.array(effects)[again.picture.owner])


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": np.full((6, 8), 5)},  # of 4 features, 4 is of none
        {"owner": np.full((6, 8), -1)},
        {"owner": np.zeros((6, 7), np.int64)},
        {"owner": np.zeros((6, 8))},
        {"rgb": np.zeros((6, 8, 3))},
        {"rgb": np.zeros((6, 8), np.uint8)},
    ],
)
def test_a_picture_that_does_not_fit_is_no_result_of_ours(wrong, tmp_path):
    path = tmp_path / "ex.npz"
    spex_core.proxyspex(small(), budget=16).save(path)
    with np.load(path) as file:
        entries = dict(file) | wrong
    np.savez(path, **entries)
    with pytest.raises(spex_core.FormatError, match="a picture of other features"):
        spex_core.load(path)
