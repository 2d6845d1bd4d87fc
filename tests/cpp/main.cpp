#include <cstdio>

void test_anova_kernel();
void test_boost();
void test_cuda();
void test_decode();
void test_fwht();
void test_gelu();
void test_masks();
void test_pack_tokens();
void test_packed_attention();
void test_parity();
void test_peel_offsets();
void test_records();
void test_settle();
void test_superset_sums();
void test_threads();
void test_trees();

int main() {
  test_threads();
  test_anova_kernel();
  test_fwht();
  test_gelu();
  test_masks();
  test_pack_tokens();
  test_packed_attention();
  test_parity();
  test_records();
  test_settle();
  test_decode();
  test_trees();
  test_boost();
  test_superset_sums();
  test_cuda();
  test_peel_offsets();
  std::puts("C++ tests passed");
}
