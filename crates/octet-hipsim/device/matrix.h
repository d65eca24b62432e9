// Matrix instructions: MFMA of gfx9, WMMA of gfx11 and gfx12, with the places of their elements in the lanes.
//
// A lane holds PER elements of a row of A and of a column of B, and some elements of D. The places are those of AMD's
// matrix instruction calculator. Products are exact in f32 and summed in the order of k; a GPU's order differs.

enum hipsim_element { HIPSIM_F32, HIPSIM_F16, HIPSIM_BF16, HIPSIM_FP8, HIPSIM_BF8 };

// Element `index` of a lane's operand.
template <hipsim_element KIND>
static inline float hipsim_read(const void* operand, unsigned index) {
    if constexpr (KIND == HIPSIM_F32) return static_cast<const float*>(operand)[index];
    if constexpr (KIND == HIPSIM_F16) return (float)static_cast<const _Float16*>(operand)[index];
    if constexpr (KIND == HIPSIM_BF16) return hipsim_bf16_to_float(static_cast<const unsigned short*>(operand)[index]);
#if HIPSIM_FLOAT8
    if constexpr (KIND == HIPSIM_FP8) return hipsim_fp8_values.values[static_cast<const unsigned char*>(operand)[index]];
    if constexpr (KIND == HIPSIM_BF8) return hipsim_bf8_values.values[static_cast<const unsigned char*>(operand)[index]];
#endif
    return 0.0f;
}

template <class Multiplicand, class Accumulator>
struct hipsim_product {
    Multiplicand a, b;
    Accumulator c;
    bool differs;
};

// D = A B + C with A [M, K] and B [K, M], both spread over the lanes in groups of M: lane group g holds k from g * PER.
template <unsigned M, unsigned K, unsigned PER, hipsim_element A_KIND, hipsim_element B_KIND, bool REPLICATED>
struct hipsim_matrix {
    float a[M][K];
    float b[K][M];
    float d[M][M];

    template <class Operands>
    void gather(Operands* const* lanes) {
        for (unsigned lane = 0; lane < (REPLICATED ? M : HIPSIM_WAVE); ++lane) {
            for (unsigned index = 0; index < PER; ++index) {
                unsigned k = lane / M * PER + index;
                a[lane % M][k] = hipsim_read<A_KIND>(&lanes[lane]->a, index);
                b[k][lane % M] = hipsim_read<B_KIND>(&lanes[lane]->b, index);
            }
        }
    }

    void multiply() {
        for (unsigned row = 0; row < M; ++row) {
            float sums[M];
            for (unsigned column = 0; column < M; ++column) sums[column] = d[row][column];
            for (unsigned k = 0; k < K; ++k)
                for (unsigned column = 0; column < M; ++column) sums[column] += a[row][k] * b[k][column];
            for (unsigned column = 0; column < M; ++column) d[row][column] = sums[column];
        }
    }

    // Runs the instruction; `row_of(lane, register)` says where an accumulator's element stands.
    template <unsigned REGISTERS, class Operands, class RowOf>
    static void run(Operands* const* lanes, RowOf row_of) {
        hipsim_matrix matrix;
        matrix.gather(lanes);
        for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane)
            for (unsigned index = 0; index < REGISTERS; ++index)
                matrix.d[row_of(lane, index)][lane % M] = reinterpret_cast<const float*>(&lanes[lane]->c)[index];
        matrix.multiply();
        for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane)
            for (unsigned index = 0; index < REGISTERS; ++index)
                reinterpret_cast<float*>(&lanes[lane]->c)[index] = matrix.d[row_of(lane, index)][lane % M];
    }
};

#if HIPSIM_GFX == 0x90a || HIPSIM_GFX == 0x942 || HIPSIM_GFX == 0x950
template <unsigned M, unsigned K, hipsim_element A_KIND, hipsim_element B_KIND, class Operands>
static void hipsim_apply_mfma(Operands* const* lanes) {
    constexpr unsigned PER = M * K / 64, REGISTERS = M * M / 64;
    hipsim_matrix<M, K, PER, A_KIND, B_KIND, false>::template run<REGISTERS>(lanes, [](unsigned lane, unsigned index) {
        return index / 4 * (256 / M) + 4 * (lane / M) + index % 4;
    });
}

template <unsigned M, unsigned K, hipsim_element A_KIND, hipsim_element B_KIND, class A, class C>
static inline C hipsim_mfma(unsigned site, A a, A b, C c, int broadcast, int block, int permute) {
    static_assert(sizeof(C) == M * M / 64 * sizeof(float), "the accumulator has M * M / 64 registers");
    if (broadcast | block | permute) hipsim_fault("the simulator knows no MFMA with cbsz, abid or blgp");
    hipsim_product<A, C> product = {a, b, c, false};
    hipsim_collect(site, product, hipsim_apply_mfma<M, K, A_KIND, B_KIND, hipsim_product<A, C>>);
    return product.c;
}

#define HIPSIM_MFMA(m, k, a_kind, b_kind, ...) hipsim_mfma<m, k, a_kind, b_kind>(HIPSIM_SITE, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x4f32(...) HIPSIM_MFMA(16, 4, HIPSIM_F32, HIPSIM_F32, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x2f32(...) HIPSIM_MFMA(32, 2, HIPSIM_F32, HIPSIM_F32, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x16f16(...) HIPSIM_MFMA(16, 16, HIPSIM_F16, HIPSIM_F16, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x8f16(...) HIPSIM_MFMA(32, 8, HIPSIM_F16, HIPSIM_F16, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(...) HIPSIM_MFMA(16, 16, HIPSIM_BF16, HIPSIM_BF16, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(...) HIPSIM_MFMA(32, 8, HIPSIM_BF16, HIPSIM_BF16, __VA_ARGS__)
#if HIPSIM_FLOAT8
#define __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(...) HIPSIM_MFMA(16, 32, HIPSIM_FP8, HIPSIM_FP8, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x32_fp8_bf8(...) HIPSIM_MFMA(16, 32, HIPSIM_FP8, HIPSIM_BF8, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x32_bf8_fp8(...) HIPSIM_MFMA(16, 32, HIPSIM_BF8, HIPSIM_FP8, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x32_bf8_bf8(...) HIPSIM_MFMA(16, 32, HIPSIM_BF8, HIPSIM_BF8, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8(...) HIPSIM_MFMA(32, 16, HIPSIM_FP8, HIPSIM_FP8, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x16_bf8_bf8(...) HIPSIM_MFMA(32, 16, HIPSIM_BF8, HIPSIM_BF8, __VA_ARGS__)
#endif
#if HIPSIM_GFX == 0x950
#define __builtin_amdgcn_mfma_f32_16x16x32_bf16(...) HIPSIM_MFMA(16, 32, HIPSIM_BF16, HIPSIM_BF16, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_16x16x32_f16(...) HIPSIM_MFMA(16, 32, HIPSIM_F16, HIPSIM_F16, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x16_bf16(...) HIPSIM_MFMA(32, 16, HIPSIM_BF16, HIPSIM_BF16, __VA_ARGS__)
#define __builtin_amdgcn_mfma_f32_32x32x16_f16(...) HIPSIM_MFMA(32, 16, HIPSIM_F16, HIPSIM_F16, __VA_ARGS__)
#endif
#endif

#if HIPSIM_GFX == 0x1100
// RDNA 3: each half of the wave holds all of A and B; the halves must agree. Rows of D alternate between the halves.
template <hipsim_element KIND, class Operands>
static void hipsim_apply_wmma(Operands* const* lanes) {
    bool differs = false;
    for (unsigned lane = 0; lane < 16; ++lane)
        differs |= __builtin_memcmp(&lanes[lane]->a, &lanes[lane + 16]->a, 32) != 0
            || __builtin_memcmp(&lanes[lane]->b, &lanes[lane + 16]->b, 32) != 0;
    for (unsigned lane = 0; lane < 32; ++lane) lanes[lane]->differs = differs;
    hipsim_matrix<16, 16, 16, KIND, KIND, true>::template run<8>(
        lanes, [](unsigned lane, unsigned index) { return 2 * index + lane / 16; });
}
#elif HIPSIM_GFX == 0x1201
// RDNA 4: each half of the wave holds half of k, and half of the rows of D.
template <hipsim_element KIND, class Operands>
static void hipsim_apply_wmma(Operands* const* lanes) {
    hipsim_matrix<16, 16, 8, KIND, KIND, false>::template run<8>(
        lanes, [](unsigned lane, unsigned index) { return 8 * (lane / 16) + index; });
}
#endif

#if HIPSIM_GFX == 0x1100 || HIPSIM_GFX == 0x1201
template <hipsim_element KIND, unsigned BYTES, class A, class C>
static inline C hipsim_wmma(unsigned site, A a, A b, C c) {
    static_assert(sizeof(A) == BYTES && sizeof(C) == 32, "operands have the sizes of this instruction");
    hipsim_product<A, C> product = {a, b, c, false};
    hipsim_collect(site, product, hipsim_apply_wmma<KIND, hipsim_product<A, C>>);
    if (product.differs) hipsim_fault("WMMA: lanes 16 to 31 must hold the same A and B as lanes 0 to 15");
    return product.c;
}
#endif
#if HIPSIM_GFX == 0x1100
#define __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(...) hipsim_wmma<HIPSIM_BF16, 32>(HIPSIM_SITE, __VA_ARGS__)
#define __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(...) hipsim_wmma<HIPSIM_F16, 32>(HIPSIM_SITE, __VA_ARGS__)
#elif HIPSIM_GFX == 0x1201
#define __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(...) hipsim_wmma<HIPSIM_BF16, 16>(HIPSIM_SITE, __VA_ARGS__)
#define __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(...) hipsim_wmma<HIPSIM_F16, 16>(HIPSIM_SITE, __VA_ARGS__)
#define __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(...) hipsim_wmma<HIPSIM_FP8, 8>(HIPSIM_SITE, __VA_ARGS__)
#define __builtin_amdgcn_wmma_f32_16x16x16_bf8_bf8_w32_gfx12(...) hipsim_wmma<HIPSIM_BF8, 8>(HIPSIM_SITE, __VA_ARGS__)
#endif
