"""Compiles Triton kernels ahead of time for GPUs that need not be there; run by
test_triton_compile.py in a process of its own, without Triton's interpreter.

    python tests/compile_triton.py 80 90 100 gfx942    # a line of JSON for each kernel on each
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from spex_core.triton_kernels import (
    affine_masks,
    bch_decode,
    fwht,
    histogram,
    packed_attention,
    parity_bits,
    peel_bins,
    uniform_masks,
)
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

P = "*i64"  # a pointer
Q, D = "*i32", "*fp64"
N = "i32"
A = "i32:16"  # ":16": a multiple of 16, as a launcher makes sure
MOST_T = 10  # errors that a code of plan_spex corrects
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")  # of a launch, among the constants


def shipped(module: str, tactics: str = "TACTICS") -> dict[str, int]:
    """The tactic that a launcher takes unless tuning is on."""
    return getattr(importlib.import_module(f"spex_core.triton_kernels.{module}"), tactics)[0]


# module, kernel, types of its arguments in order, its constants and how it is launched; one line
# for each variant that a launcher uses. A kernel that is missing here fails
# test_every_kernel_is_compiled.
KERNELS = [
    *(
        (
            *("uniform_masks", "_uniform_masks_kernel", (P, N, N, N, "u64", "u32", "i64")),
            uniform_masks.shape(words, **shipped("uniform_masks")),
        )
        for words in (1, 16)
    ),
    *(
        (
            *("affine_masks", "_affine_masks_kernel", (P, P, P, N, N, N)),
            affine_masks.shape(words, **shipped("affine_masks")),
        )
        for words in (1, 16)
    ),
    *(
        ("fwht", "_fwht_rows_kernel", (x, y, N), fwht.shape(max(b, 12), b, 4))
        for b, x, y in (
            *((b, x, x) for b in (3, 14) for x in ("*fp32", "*fp64")),
            (13, "*fp64", "*fp64"),
            *((3, "*bf16", "*bf16"), (14, "*fp16", "*fp32")),
        )
    ),
    *(
        (
            *("fwht", "_fwht_columns_kernel", (x, y)),
            {"LOG_STRIDE": stride, **fwht.shape(min(stride, max(b + 4, 12)), b, 4)},
        )
        for stride, b, x, y in (
            (14, 1, "*fp32", "*fp32"),
            (14, 10, "*fp64", "*fp64"),
            (13, 11, "*fp64", "*fp64"),
            (14, 10, "*fp32", "*bf16"),
        )
    ),
    *(
        (
            *("parity_bits", "_bit_columns_kernel", (P, P, N, N, N)),
            parity_bits.columns_shape(words, **shipped("parity_bits", "COLUMNS_TACTICS")),
        )
        for words in (1, 16)
    ),
    ("parity_bits", "_parity_bits_kernel", (P, P, P, N, N, N), shipped("parity_bits")),
    (
        *("parity_predict", "_parity_predict_kernel", ("*i32", "*fp64", "*fp64", N, N, N)),
        shipped("parity_predict"),
    ),
    (
        *("parity_adjoint", "_parity_adjoint_kernel", ("*i32", "*fp64", "*fp64", N, N, N)),
        {"SPAN": 1 << 16, "LANES": 1024, **shipped("parity_adjoint")},
    ),
    (
        *("parity_adjoint", "_sum_rows_kernel", ("*fp64", "*fp64", N, N)),
        shipped("parity_adjoint", "SUM_TACTICS"),
    ),
    ("parity_gram", "_parity_gram_kernel", ("*i32", "*fp64", N, N, N), shipped("parity_gram")),
    *(
        (
            *("anova_kernel", "_anova_kernel_kernel", (P, P, *[D] * 4, *[N] * 4, *["fp64"] * 3)),
            {"SAME": same, "ORDERS": orders, **shipped("anova_kernel")},
        )
        for same, orders in ((0, 4), (1, 8))
    ),
    *(
        (
            *("anova_kernel", "_anova_grad_kernel", (P, P, *[D] * 6, *[N] * 4, *["fp64"] * 3)),
            {"SAME": same, "ORDERS": orders, "BLOCK": 16, "num_warps": 4},
        )
        for same, orders in ((0, 4), (1, 8))
    ),
    *(
        (
            *("anova_cross", "_anova_cross_kernel", (P, P, *[D] * 4, *[N] * 4, *["fp64"] * 4)),
            {"ORDERS": orders, "HIGHER": higher, **shipped("anova_cross")},
        )
        for orders, higher in ((4, 0), (4, 4), (8, 8))
    ),
    *(
        (
            *("anova_kernel", "_norms_kernel", (*["*fp64"] * 2, N)),
            {"ORDERS": orders, "num_warps": 1},
        )
        for orders in (0, 8)
    ),
    (
        *("anova_kernel", "_norms_grad_kernel", (*["*fp64"] * 3, N)),
        {"ORDERS": 8, "BLOCK": 64, "num_warps": 2},
    ),
    (
        *("histogram", "_walk_kernel", (P, "*i32", "*i32", N, N, N)),
        shipped("histogram", "WALK_TACTICS"),
    ),
    (
        *("histogram", "_histogram_kernel", ("*i32", "*i8", "*i32", "*i32", *[N] * 5)),
        {"SLOTS": histogram.SLOTS, **shipped("histogram")},
    ),
    (
        *("histogram", "_best_split_kernel", ("*i32", P, "*i8", "*fp64", N, N, "fp64")),
        {"BLOCK_F": 256, "num_warps": 4, "enable_fp_fusion": False},
    ),
    ("histogram", "_ordered_sums_kernel", (D, D, N, N), {"BLOCK": 32, "num_warps": 1}),
    ("tree_fourier", "_sum_runs_kernel", (D, P, D, N), {"BLOCK": 128}),
    *(
        (
            *("bch_decode", "_syndromes_kernel", ("*fp64", *["*i32"] * 3, N, N)),
            {"T": t, "BLOCK_R": 64, "BLOCK_T": 2 ** (t - 1).bit_length()},
        )
        for t in (5, MOST_T)
    ),
    *(
        (
            *("bch_decode", "_locators_kernel", (*["*i32"] * 6, N, N)),
            {"FLIPS": flips, "T": t, "BLOCK": bch_decode.LANES, "num_warps": bch_decode.WARPS},
        )
        for flips, t in ((0, 5), (3, 5), (6, 5), (6, MOST_T))
    ),
    *(
        (
            *("bch_decode", "_roots_kernel", ("*i32", "*i32", P, *["*i32"] * 4, P, N, N, N)),
            {"T": t, "WORDS": 1, "BLOCK": bch_decode.POSITIONS},
        )
        for t in (5, MOST_T)
    ),
    *(
        (
            *("bch_decode", "_scores_kernel", ("*fp64", "*i32", P, "*fp64", N, N)),
            {"FLIPS": flips, "WORDS": 1, "BLOCK": bch_decode.LANES},
        )
        for flips in (0, 6)
    ),
    (
        *("bch_decode", "_choose_kernel", ("*fp64", *["*i32"] * 4)),
        {"FLIPS": 6, "T": 5, "BLOCK_T": 8, "BLOCK": 128},
    ),
    *(
        (
            *(
                "peel_bins",
                "_take_kernel",
                (D, D, "*i8", Q, P, Q, D, P, Q, D, Q, Q, P, D, N, N, N),
            ),
            {"WORDS": w, **peel_bins.take_shape(c, p)},
        )
        for w, c, p in ((1, 3, 64), (8, 16, 512))
    ),
    *(
        (*case, more | {"WORDS": w, "BLOCK": peel_bins.VALUES // p, "BLOCK_P": p})
        for w, p in ((1, 64), (8, 512))
        for *case, more in (
            ("peel_bins", "_ratios_kernel", (D, Q, P, Q, D, N, N, N, "fp64"), {}),
            ("peel_bins", "_nearby_kernel", (D, D, Q, P, P, Q, P, D, *[N] * 5, "fp64"), {}),
            ("peel_squares", "_spread_kernel", (D, *[P] * 3, D, D, D, P, N, N), {"RESIDUAL": True}),
            (
                "peel_squares",
                "_spread_kernel",
                (D, *[P] * 3, D, D, D, P, N, N),
                {"RESIDUAL": False},
            ),
            ("peel_squares", "_gather_kernel", (D, Q, P, D, N, N, N), {}),
        )
    ),
    *(
        (
            *("peel_bins", "_place_kernel", (Q, Q, P, Q, P, N, N, N, N)),
            {"T": t, "WORDS": w, "BLOCK_C": c, "BLOCK": peel_bins.SETS},
        )
        for t, w, c in ((5, 1, 4), (10, 8, 16))
    ),
    ("peel_squares", "_conjugate_kernel", (D, D, D, D, D, P), {"BLOCK": 1024}),
    ("mask_lengths", "_mask_lengths_kernel", (P, P, P, N, N, N, N), {"BLOCK_T": 32}),
    *(
        (
            "pack_tokens",
            "_pack_tokens_kernel",
            (*[P] * 8, "*i32", N, N, N),
            {"TRIE": trie, "ORIGINAL": original, "BLOCK_L": 256},
        )
        for trie, original in ((False, False), (True, True))
    ),
    ("pack_trie", "_trie_prefixes_kernel", (*[P] * 5, N, N, N), {"BLOCK_L": 256}),
    (
        *("pack_trie", "_subtree_end_kernel", (P, "*i32", P, P, P, N, N)),
        {"LEVELS": 12, "BLOCK_N": 256},
    ),
    ("pack_trie", "_last_node_kernel", (P, P, P), {}),
    *(
        (
            "mask_embed",
            "_mask_embed_kernel",
            (P, x, x, P, P, x, *[N] * 5),
            {"DROP": drop, "BLOCK_L": 32, "BLOCK_D": 64},
        )
        for x, drop in (("*fp32", False), ("*bf16", True), ("*fp64", False))
    ),
    *(
        (
            "head_scale",
            "_head_scale_kernel",
            (x, P, "*i32", x, wide, x, *[N] * 5),
            {"MEAN": mean, "SCALE": scale, "BLOCK": 1024},
        )
        for x, wide, mean, scale in (
            ("*fp32", "*fp32", False, False),
            ("*bf16", "*fp32", True, True),
            ("*fp64", "*fp64", True, True),
        )
    ),
    *(
        (
            *("packed_attention", "_packed_attention_kernel"),
            (*3 * (f"{x}:16",), starts, f"{x}:16", *[N] * 4, *[A] * 6, "fp32"),
            {"CAUSAL": causal, "DIM": width, **packed_attention.shape(width, dtype)},
        )
        for x, dtype, width, causal, starts in (
            ("*fp32", torch.float32, 32, False, "*i32"),
            ("*fp32", torch.float32, 512, True, P),
            ("*bf16", torch.bfloat16, 64, True, "*i32"),
            ("*bf16", torch.bfloat16, 128, False, "*i32"),
            ("*fp16", torch.float16, 512, True, "*i32"),
        )
    ),
    *(
        (
            "score_last",
            "_score_last_kernel",
            (x, P, x, x, x, x, out, N, N, N),
            {
                "EPS": 1e-5,
                "CENTRE": norm,
                "NORM": norm,
                "NORM_BIAS": norm,
                "BIAS": norm,
                "BLOCK_D": 512,
                "BLOCK_Q": 8,
                "num_warps": 8,
            },
        )
        for x, out, norm in (
            ("*fp16", "*fp32", False),
            ("*fp32", "*fp32", False),
            ("*bf16", "*fp32", True),
            ("*fp64", "*fp64", True),
        )
    ),
    *(
        (
            "token_logprobs",
            "_token_logprobs_kernel",
            (x, x, x, out, out, N, N, N),
            {"BIAS": True, "SPAN": 4096, "BLOCK_R": r, "BLOCK_V": v, "BLOCK_D": d},
        )
        for x, out, (r, v, d) in (
            ("*fp32", "*fp32", (32, 64, 32)),
            ("*bf16", "*fp32", (32, 64, 32)),
            ("*fp64", "*fp64", (16, 32, 16)),
        )
    ),
]


def launched(types: tuple[str, ...], constants: dict, arch: str) -> bool:
    """Whether a launcher uses this variant there (fwht.one_pass), and it is not compiled elsewhere:
    the largest decoder takes half a minute."""
    if constants.get("FLIPS") == 6 and constants.get("T") == MOST_T and arch != "90":
        return False
    return arch.isdigit() or "*fp64" not in types or constants.get("LOG_TILE") != fwht.ONE_PASS


def compiled(module: str, kernel: str, types: tuple[str, ...], constants: dict, arch: str) -> dict:
    """Shared memory, and what the assembler says of registers and spills, for one kernel on
    sm_<arch>, or on an AMD GPU of that name."""
    options = {name: constants[name] for name in OPTIONS if name in constants}
    constants = {name: x for name, x in constants.items() if name not in OPTIONS}
    function = getattr(importlib.import_module(f"spex_core.triton_kernels.{module}"), kernel)
    names = function.arg_names
    plain = [t.removesuffix(":16") for t in types]
    signature = dict(zip(names, plain, strict=False)) | dict.fromkeys(constants, "constexpr")
    assert list(signature) == names, f"{kernel}: {names} have the types {signature}"
    known = {(j,): [["tt.divisibility", 16]] for j, t in enumerate(types) if t.endswith(":16")}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=known)
    cuda = arch.isdigit()
    target = GPUTarget("cuda", int(arch), 32) if cuda else GPUTarget("hip", arch, 64)
    built = triton.compile(source, target=target, options=options)
    variant = [t for t in dict.fromkeys(plain) if t[0] == "*"]
    if cuda:
        report = ptxas(built.asm["ptx"])
        spills, registers = r"(\d+) bytes spill", r"Used (\d+) registers"
    else:  # what goes from scalar to vector registers costs no memory
        report = built.asm["amdgcn"]
        spills, registers = r"\.vgpr_spill_count:\s*(\d+)", r"\.vgpr_count:\s*(\d+)"
    spills = sum(map(int, re.findall(spills, report)))
    registers = int(re.search(registers, report)[1])
    return {
        "kernel": kernel,
        "constants": constants,
        "pointers": variant,
        "arch": arch,
        "shared": built.metadata.shared,
        "spills": spills,
        "registers": registers,
        "binary": len(built.asm["cubin" if cuda else "hsaco"]),
    }


def ptxas(ptx: str) -> str:
    """The report of Triton's own assembler."""
    arch = re.search(r"\.target (\w+)", ptx)[1]
    name = "ptxas-blackwell" if int(re.search(r"\d+", arch)[0]) >= 100 else "ptxas"
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [program, "-v", f"--gpu-name={arch}", source, "-o", source.with_suffix(".cubin")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


if __name__ == "__main__":
    for arch in sys.argv[1:]:
        for case in KERNELS:
            if launched(*case[2:], arch):
                print(json.dumps(compiled(*case, arch)), flush=True)
