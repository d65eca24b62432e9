// Matrix units: one product, [16 x 32] by [32 x 16], on every device.
//
// An operand is 16 rows of 32 elements of bf16. Each lane holds PIECES pieces of eight neighbouring elements:
// `piece_row(i)` says of which row, `piece_k(i)` from which element on. Both operands are arranged alike, so any order
// of k that both follow gives the same product; that is what lets lanes load 16 bytes at once.
//
// Wider numbers are sums of bf16: three give all bits of f32, two those of f16. A product of sums is a sum of products,
// so every type is multiplied exactly by the same instruction.

struct alignas(16) Piece {
    u32 pair[4];
};

#if defined(SM)
#define PIECES 2
DEVICE u32 piece_row(u32 i) { return lane_index() / 4 + 8 * i; }
DEVICE u32 piece_k(u32) { return lane_index() % 4 * 8; }
DEVICE u32 acc_row(u32 i) { return lane_index() / 4 + 8 * (i / 2 % 2); }
DEVICE u32 acc_column(u32 i) { return lane_index() % 4 * 2 + i % 2 + 8 * (i / 4); }
#elif GFX == 0x1100
#define PIECES 4
DEVICE u32 piece_row(u32) { return lane_index() % 16; }
DEVICE u32 piece_k(u32 i) { return 8 * i; }
DEVICE u32 acc_row(u32 i) { return 2 * i + lane_index() / 16; }
DEVICE u32 acc_column(u32) { return lane_index() % 16; }
#elif GFX == 0x1200 || GFX == 0x1201
#define PIECES 2
DEVICE u32 piece_row(u32) { return lane_index() % 16; }
DEVICE u32 piece_k(u32 i) { return 16 * i + lane_index() / 16 * 8; }
DEVICE u32 acc_row(u32 i) { return lane_index() / 16 * 8 + i; }
DEVICE u32 acc_column(u32) { return lane_index() % 16; }
#else
#define PIECES 1
DEVICE u32 piece_row(u32) { return lane_index() % 16; }
DEVICE u32 piece_k(u32) { return lane_index() / 16 * 8; }
DEVICE u32 acc_row(u32 i) { return lane_index() / 16 * 4 + i; }
DEVICE u32 acc_column(u32) { return lane_index() % 16; }
#endif

struct Operand {
    Piece piece[PIECES];
};

// The compiler may not move loads across. Where each lane holds all of k (gfx11), loads of several tiles ahead would not
// fit the registers; elsewhere they should run ahead.
#if !defined(SM) && !defined(HIPSIM) && GFX == 0x1100
DEVICE void keep_order() { __builtin_amdgcn_sched_barrier(0); }
#else
DEVICE void keep_order() {}
#endif

// The value, as if nothing were known of it: what is computed from it is not kept in registers over a loop. On gfx11, where
// those are short.
#if !defined(SM) && !defined(HIPSIM) && GFX == 0x1100
DEVICE u32 fresh(u32 value) {
    asm volatile("" : "+v"(value));
    return value;
}
#else
DEVICE u32 fresh(u32 value) { return value; }
#endif

// A lane's share of a [16 x 16] result.
#define ACC_VALUES (256 / WAVE)
struct Acc {
    float value[ACC_VALUES];
};

DEVICE Acc zero_acc() {
    Acc acc;
#pragma unroll
    for (u32 i = 0; i < ACC_VALUES; i++) acc.value[i] = 0.0f;
    return acc;
}

#if !defined(SM)
typedef short Short4 __attribute__((ext_vector_type(4)));
typedef short Short8 __attribute__((ext_vector_type(8)));
typedef short Short16 __attribute__((ext_vector_type(16)));
typedef int Int2 __attribute__((ext_vector_type(2)));
typedef float Float2 __attribute__((ext_vector_type(2)));
typedef float Float4 __attribute__((ext_vector_type(4)));
typedef float Float8 __attribute__((ext_vector_type(8)));
#endif

// acc [16 x 16] += a [16 x 32] . b [16 x 32] transposed. All lanes of the wave take part.
DEVICE void multiply(Acc& acc, const Operand& a, const Operand& b) {
#if defined(SM)
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float* c = acc.value + 4 * half;
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                         : "r"(a.piece[0].pair[2 * k]), "r"(a.piece[1].pair[2 * k]), "r"(a.piece[0].pair[2 * k + 1]),
                           "r"(a.piece[1].pair[2 * k + 1]), "r"(b.piece[half].pair[2 * k]), "r"(b.piece[half].pair[2 * k + 1]));
        }
    }
#elif GFX == 0x1100
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
        struct Pair { Piece low, high; };
        Pair left = {a.piece[2 * k], a.piece[2 * k + 1]}, right = {b.piece[2 * k], b.piece[2 * k + 1]};
        Float8 sum = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(bits_of<Short16>(left), bits_of<Short16>(right), bits_of<Float8>(acc));
        acc = bits_of<Acc>(sum);
    }
#elif GFX == 0x1200 || GFX == 0x1201
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
        Float8 sum = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(bits_of<Short8>(a.piece[k]), bits_of<Short8>(b.piece[k]), bits_of<Float8>(acc));
        acc = bits_of<Acc>(sum);
    }
#else
    struct Halves { u32 pair[2]; };
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
        Halves left = {{a.piece[0].pair[2 * k], a.piece[0].pair[2 * k + 1]}}, right = {{b.piece[0].pair[2 * k], b.piece[0].pair[2 * k + 1]}};
        Float4 sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(bits_of<Short4>(left), bits_of<Short4>(right), bits_of<Float4>(acc), 0, 0, 0);
        acc = bits_of<Acc>(sum);
    }
#endif
}

// The same for operands of E4M3, two for each bf16: acc [16 x 16] += a [16 x 64] . b [16 x 64] transposed. Both
// operands are arranged alike, so that pieces may be cut into the instruction's shares of k in any order.
#if (defined(SM) && SM >= 89) || (defined(GFX) && (GFX == 0x942 || GFX == 0x950 || GFX == 0x1200 || GFX == 0x1201))
#define MULTIPLIES_FP8 1
DEVICE void multiply_pairs(Acc& acc, const Operand& a, const Operand& b) {
#if defined(SM)
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float* c = acc.value + 4 * half;
            asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                         : "r"(a.piece[0].pair[2 * k]), "r"(a.piece[1].pair[2 * k]), "r"(a.piece[0].pair[2 * k + 1]),
                           "r"(a.piece[1].pair[2 * k + 1]), "r"(b.piece[half].pair[2 * k]), "r"(b.piece[half].pair[2 * k + 1]));
        }
    }
#else
    struct Halves { u32 pair[2]; };
#pragma unroll
    for (u32 i = 0; i < PIECES; i++) {
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            Halves left = {{a.piece[i].pair[2 * k], a.piece[i].pair[2 * k + 1]}}, right = {{b.piece[i].pair[2 * k], b.piece[i].pair[2 * k + 1]}};
#if GFX == 0x1200 || GFX == 0x1201
            Float8 sum = __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(bits_of<Int2>(left), bits_of<Int2>(right), bits_of<Float8>(acc));
#else
            Float4 sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(bits_of<long>(left), bits_of<long>(right), bits_of<Float4>(acc), 0, 0, 0);
#endif
            acc = bits_of<Acc>(sum);
        }
    }
#endif
}
#endif

// ---- Eight elements of any type as pieces of bf16.

constexpr u32 terms_of(u32 type) { return type == TYPE_F32 ? 3 : type == TYPE_F16 ? 2 : 1; }

// Eight neighbouring elements as they lie in memory.
template <u32 TYPE> struct alignas(type_bytes(TYPE) == 1 ? 8 : 16) Raw {
    u32 word[2 * type_bytes(TYPE)];
};

template <u32 TYPE> DEVICE Raw<TYPE> load_raw(const void* base, u64 index) {
    return *(const Raw<TYPE>*)((const u8*)base + index * type_bytes(TYPE));
}

// Two floats whose lower halves are 0, as a pair of bf16.
DEVICE u32 pair_of(float low, float high) { return bits_of<u32>(low) >> 16 | (bits_of<u32>(high) & 0xffff0000u); }

// A pair of neighbouring elements as floats: elements 2 * pair and 2 * pair + 1.
template <u32 TYPE> DEVICE void raw_pair(const Raw<TYPE>& raw, u32 pair, float& low, float& high) {
    if constexpr (TYPE == TYPE_F32) {
        low = bits_of<float>(raw.word[2 * pair]);
        high = bits_of<float>(raw.word[2 * pair + 1]);
    } else if constexpr (TYPE == TYPE_F16) {
        low = half_to_float((u16)raw.word[pair]);
        high = half_to_float((u16)(raw.word[pair] >> 16));
    } else if constexpr (TYPE == TYPE_BF16) {
        low = bits_of<float>(raw.word[pair] << 16);
        high = bits_of<float>(raw.word[pair] & 0xffff0000u);
    } else {
#if CONVERTS_FP8
        int word = (int)raw.word[pair / 2];
        Float2 both;
        if constexpr (TYPE == TYPE_E4M3)
            both = pair % 2 ? __builtin_amdgcn_cvt_pk_f32_fp8(word, true) : __builtin_amdgcn_cvt_pk_f32_fp8(word, false);
        else
            both = pair % 2 ? __builtin_amdgcn_cvt_pk_f32_bf8(word, true) : __builtin_amdgcn_cvt_pk_f32_bf8(word, false);
        low = both.x;
        high = both.y;
#else
        u32 codes = raw.word[pair / 2] >> (16 * (pair % 2));
        low = float8_to_float_by_bits<TYPE>(codes & 0xffu);
        high = float8_to_float_by_bits<TYPE>(codes >> 8 & 0xffu);
#endif
    }
}

// The terms whose sum the elements are, the largest first.
template <u32 TYPE> DEVICE void split(const Raw<TYPE>& raw, Piece terms[terms_of(TYPE)]) {
#pragma unroll
    for (u32 pair = 0; pair < 4; pair++) {
        if constexpr (TYPE == TYPE_BF16 || TYPE == TYPE_E4M3_PAIR) {
            terms[0].pair[pair] = raw.word[pair];
        } else {
            float low, high;
            raw_pair<TYPE>(raw, pair, low, high);
#pragma unroll
            for (u32 term = 0; term < terms_of(TYPE); term++) {
                terms[term].pair[pair] = pair_of(low, high);
                // What was cut off is itself a float, exactly.
                low -= bits_of<float>(bits_of<u32>(low) & 0xffff0000u);
                high -= bits_of<float>(bits_of<u32>(high) & 0xffff0000u);
            }
        }
    }
}

// The same rounded to one bf16 each.
template <u32 TYPE> DEVICE Piece rounded(const Raw<TYPE>& raw) {
    Piece piece;
#pragma unroll
    for (u32 pair = 0; pair < 4; pair++) {
        if constexpr (TYPE == TYPE_BF16) {
            piece.pair[pair] = raw.word[pair];
        } else {
            float low, high;
            raw_pair<TYPE>(raw, pair, low, high);
            piece.pair[pair] = (u32)float_to_bf16(low) | (u32)float_to_bf16(high) << 16;
        }
    }
    return piece;
}
