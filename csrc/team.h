// What a Team (team.cuh) is given.
#pragma once

#include <cstdint>

namespace spex {

constexpr int64_t kTeamPieces = int64_t{1} << 17;  // numbers that all of its threads see

}  // namespace spex
