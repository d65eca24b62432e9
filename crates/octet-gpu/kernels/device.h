// What differs between devices, under names of our own. Everything else in this folder is written once.
//
// The host defines, for AMD: GFX (the digits of the architecture's name, 0x942) and WAVE (lanes of a wave, 64 or 32);
// for NVIDIA: SM (90). It includes nothing and needs no header of a vendor, so that hiprtc, NVRTC and clang compile it
// alike. HIPSIM is defined by the simulator of the tests, which compiles AMD's branch for the host.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(SM)
#define WAVE 32
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define SHARED __shared__
#define KERNEL(name, threads, Params) extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Params p)
#elif defined(HIPSIM)
#define DEVICE static inline
#define DEVICE_MEMBER inline
#define SHARED HIPSIM_SHARED
#define KERNEL(name, threads, Params) HIPSIM_KERNEL(name, threads, Params)
#else
#define DEVICE static __attribute__((device, always_inline)) inline
#define DEVICE_MEMBER __attribute__((device, always_inline)) inline
#define SHARED __attribute__((shared))
#define KERNEL(name, threads, Params)                                                                                  \
    extern "C" __attribute__((global, amdgpu_flat_work_group_size(threads, threads))) void name(const Params p)
#endif

// Shared arrays whose pieces of 16 bytes are read at once.
#if defined(SM)
#define ALIGNED __align__(16)
#else
#define ALIGNED __attribute__((aligned(16)))
#endif

// Threads of every block.
#define THREADS 256
#define WAVES (THREADS / WAVE)

// ---- Who am I, and waiting for each other.

#if defined(SM)
DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
// All threads of the block wait, and see each other's shared memory.
DEVICE void block_sync() { __syncthreads(); }
// All lanes of the wave wait, and see each other's shared memory.
DEVICE void wave_sync() { __syncwarp(); }
DEVICE u32 shuffle_xor(u32 value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
#else
DEVICE u32 thread_index() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE u32 block_x() { return __builtin_amdgcn_workgroup_id_x(); }
DEVICE u32 block_y() { return __builtin_amdgcn_workgroup_id_y(); }
DEVICE u32 block_z() { return __builtin_amdgcn_workgroup_id_z(); }
DEVICE void block_sync() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
DEVICE void wave_sync() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
DEVICE u32 shuffle_xor(u32 value, u32 mask) {
    u32 from = (thread_index() % WAVE) ^ mask;
    return (u32)__builtin_amdgcn_ds_bpermute((int)(from * 4), (int)value);
}
#endif

DEVICE u32 lane_index() { return thread_index() % WAVE; }
DEVICE u32 wave_index() { return thread_index() / WAVE; }

// ---- Numbers.

#if defined(SM)
#define copy_bytes memcpy
#else
#define copy_bytes __builtin_memcpy
#endif

template <class To, class From> DEVICE To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    copy_bytes(&to, &from, sizeof(To));
    return to;
}

#if defined(SM)
DEVICE float exp2_fast(float x) { float y; asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal(float x) { float y; asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal_root(float x) { float y; asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float multiply_add(float a, float b, float c) { float y; asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(b), "f"(c)); return y; }
DEVICE float round_to_even(float x) { float y; asm("cvt.rni.f32.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float half_to_float(u16 h) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(h)); return y; }
DEVICE u16 float_to_half(float x) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h; }
DEVICE float larger(float a, float b) { float y; asm("max.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b)); return y; }
DEVICE float smaller(float a, float b) { float y; asm("min.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b)); return y; }
#else
DEVICE float exp2_fast(float x) { return __builtin_amdgcn_exp2f(x); }
DEVICE float reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }
DEVICE float reciprocal_root(float x) { return __builtin_amdgcn_rsqf(x); }
DEVICE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE float round_to_even(float x) { return __builtin_rintf(x); }
DEVICE float half_to_float(u16 h) { return (float)bits_of<_Float16>(h); }
DEVICE u16 float_to_half(float x) { return bits_of<u16>((_Float16)x); }
DEVICE float larger(float a, float b) { return __builtin_fmaxf(a, b); }
DEVICE float smaller(float a, float b) { return __builtin_fminf(a, b); }
#endif

#define NEGATIVE_INFINITY bits_of<float>(0xff800000u)

DEVICE float magnitude(float x) { return bits_of<float>(bits_of<u32>(x) & 0x7fffffffu); }

DEVICE u32 lesser(u32 a, u32 b) { return a < b ? a : b; }

// e^x to about two units in the last place: the rounding of x / ln 2 is carried along.
DEVICE float exponential(float x) {
    const float LOG2_E = 1.44269502f, LOG2_E_REST = 1.92596303e-8f, LN_2 = 0.693147182f;
    float high = x * LOG2_E;
    float low = multiply_add(x, LOG2_E, -high) + x * LOG2_E_REST;
    float power = exp2_fast(high);
    // Where the power is 0 or infinite there is nothing to correct, and infinity times 0 would be NaN.
    return magnitude(high) > 126.0f ? power : multiply_add(power, low * LN_2, power);
}

// tanh(x), to about 2^-23 absolutely: 1 - 2 / (1 + e^2x), which is right where the power is 0 or infinite.
DEVICE float hyperbolic_tangent(float x) { return 1.0f - 2.0f * reciprocal(1.0f + exponential(2.0f * x)); }

#define SILU 0
#define GELU_TANH 1

// x * sigmoid(z): SiLU with z = x, and GELU by tanh, because (1 + tanh u) / 2 = sigmoid(2 u).
DEVICE float activate(float x, u32 activation) {
    float z = x;
    if (activation == GELU_TANH) z = 1.59576912f * multiply_add(0.044715f * x * x, x, x);
    return x * reciprocal(1.0f + exponential(-z));
}

// Sine and cosine of angles up to about 2^18, to about 2^-24 absolutely. pi/2 is taken away in three pieces (Cody and
// Waite); the first subtraction is exact because of the fused multiplication. Polynomials of Cephes.
DEVICE void sine_cosine(float angle, float& sine, float& cosine) {
    float turns = round_to_even(angle * 0.636619747f);
    float rest = multiply_add(-turns, 1.57079637f, angle);
    rest = multiply_add(-turns, -4.37113883e-8f, rest);
    rest = multiply_add(-turns, -1.71512451e-15f, rest);
    float square = rest * rest;
    float s = multiply_add(square, -1.9515295891e-4f, 8.3321608736e-3f);
    s = multiply_add(square, s, -1.6666654611e-1f);
    s = multiply_add(square * rest, s, rest);
    float c = multiply_add(square, 2.443315711809948e-5f, -1.388731625493765e-3f);
    c = multiply_add(square, c, 4.166664568298827e-2f);
    c = multiply_add(square * square, c, multiply_add(square, -0.5f, 1.0f));
    int quadrant = (int)turns & 3;
    float first = quadrant & 1 ? c : s, second = quadrant & 1 ? s : c;
    sine = quadrant & 2 ? -first : first;
    cosine = (quadrant + 1) & 2 ? -second : second;
}

// ---- Storage types. Codes are those of DataType on the host.

#define TYPE_F32 0
#define TYPE_F16 1
#define TYPE_BF16 2
#define TYPE_E4M3 3
#define TYPE_E5M2 4
// Two neighbouring E4M3 as one element of 16 bits: operands of FP8 products, which are arranged as those of bf16.
#define TYPE_E4M3_PAIR 5

// gfx94x reads the same byte as half the value of OCP's formats; the host halves or doubles scales accordingly.
#if defined(GFX) && GFX == 0x942
#define FNUZ 1
#else
#define FNUZ 0
#endif

#if defined(GFX) && (GFX == 0x942 || GFX == 0x950 || GFX == 0x1201 || GFX == 0x1200)
#define CONVERTS_FP8 1
#else
#define CONVERTS_FP8 0
#endif

constexpr u32 type_bytes(u32 type) { return type == TYPE_F32 ? 4 : type == TYPE_E4M3 || type == TYPE_E5M2 ? 1 : 2; }

DEVICE float bf16_to_float(u16 code) { return bits_of<float>((u32)code << 16); }

// To nearest, ties to even; NaN stays NaN.
DEVICE u16 float_to_bf16(float x) {
    u32 bits = bits_of<u32>(x);
    u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (u16)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}

// FP8 to float by integer operations, for devices without the instruction. Finite codes only.
template <u32 TYPE> DEVICE float float8_to_float_by_bits(u32 code) {
    constexpr u32 mantissa = TYPE == TYPE_E4M3 ? 3 : 2;
    constexpr u32 bias = (TYPE == TYPE_E4M3 ? 7 : 15) + FNUZ;
    u32 low = code & 0x7fu;
    // Normal numbers: move the exponent. Subnormal ones: an integer times the smallest of them.
    float normal = bits_of<float>((low << (23 - mantissa)) + ((127 - bias) << 23));
    float subnormal = (float)low * bits_of<float>((127 + 1 - bias - mantissa) << 23);
    float value = low >> mantissa ? normal : subnormal;
    return bits_of<float>(bits_of<u32>(value) | (code & 0x80u) << 24);
}

// The nearest code, ties to even, of a value that was clamped to the format's range.
template <u32 TYPE> DEVICE u32 float_to_float8_by_bits(float x) {
    constexpr u32 mantissa = TYPE == TYPE_E4M3 ? 3 : 2;
    constexpr u32 bias = (TYPE == TYPE_E4M3 ? 7 : 15) + FNUZ;
    constexpr u32 drop = 23 - mantissa;
    u32 sign = bits_of<u32>(x) >> 24 & 0x80u;
    u32 bits = bits_of<u32>(x) & 0x7fffffffu;
    u32 code;
    if (bits >= (128 - bias) << 23) {
        code = ((bits + (1u << (drop - 1)) - 1 + (bits >> drop & 1u)) >> drop) - ((127 - bias) << mantissa);
    } else {
        // A number whose last place is the smallest subnormal: the addition rounds.
        float magic = bits_of<float>((127 + 1 - bias - mantissa + 23) << 23);
        code = bits_of<u32>(bits_of<float>(bits) + magic) - bits_of<u32>(magic);
    }
    // FNUZ has no negative zero: its code is NaN.
    return FNUZ && code == 0 ? 0 : code | sign;
}

template <u32 TYPE> DEVICE u32 float_to_float8(float x) {
#if CONVERTS_FP8
    u32 code = TYPE == TYPE_E4M3 ? (u32)__builtin_amdgcn_cvt_pk_fp8_f32(x, x, 0, false)
                                 : (u32)__builtin_amdgcn_cvt_pk_bf8_f32(x, x, 0, false);
    return code & 0xffu;
#else
    return float_to_float8_by_bits<TYPE>(x);
#endif
}

// One element of any type.
template <u32 TYPE> DEVICE float load_element(const void* base, u64 index) {
    if constexpr (TYPE == TYPE_F32) return ((const float*)base)[index];
    else if constexpr (TYPE == TYPE_F16) return half_to_float(((const u16*)base)[index]);
    else if constexpr (TYPE == TYPE_BF16) return bf16_to_float(((const u16*)base)[index]);
    else return float8_to_float_by_bits<TYPE>(((const u8*)base)[index]);
}

// One element of an activation, whose type is the same for the whole launch.
DEVICE float load_activation(const void* base, u64 index, u32 type) {
    return type == TYPE_F32 ? ((const float*)base)[index] : bf16_to_float(((const u16*)base)[index]);
}

DEVICE void store_activation(void* base, u64 index, u32 type, float value) {
    if (type == TYPE_F32) ((float*)base)[index] = value;
    else ((u16*)base)[index] = float_to_bf16(value);
}

// ---- Sums over a wave and a block.

DEVICE float wave_sum(float value) {
#pragma unroll
    for (u32 mask = WAVE / 2; mask > 0; mask /= 2) value += bits_of<float>(shuffle_xor(bits_of<u32>(value), mask));
    return value;
}

// The sum over the block, in every thread. `scratch` holds WAVES floats and may be used again after the next sync.
DEVICE float block_sum(float value, float* scratch) {
    value = wave_sum(value);
    if (lane_index() == 0) scratch[wave_index()] = value;
    block_sync();
    float sum = 0.0f;
#pragma unroll
    for (u32 wave = 0; wave < WAVES; wave++) sum += scratch[wave];
    return sum;
}

// The largest over the block, in every thread. NaN counts for nothing. `scratch` as above.
DEVICE float block_largest(float value, float* scratch) {
#pragma unroll
    for (u32 mask = WAVE / 2; mask > 0; mask /= 2) value = larger(value, bits_of<float>(shuffle_xor(bits_of<u32>(value), mask)));
    if (lane_index() == 0) scratch[wave_index()] = value;
    block_sync();
#pragma unroll
    for (u32 wave = 0; wave < WAVES; wave++) value = larger(value, scratch[wave]);
    return value;
}

// The batch as the host lays it out once a step.
struct Sequence {
    u32 first_row, rows, computed, first_block;
};

// Four neighbouring elements of an activation; `index` is a multiple of four.
struct alignas(16) Four {
    float value[4];
};
struct alignas(8) FourCodes {
    u16 value[4];
};

DEVICE Four load_four(const void* base, u64 index, u32 type) {
    if (type == TYPE_F32) return *(const Four*)((const float*)base + index);
    FourCodes codes = *(const FourCodes*)((const u16*)base + index);
    return {{bf16_to_float(codes.value[0]), bf16_to_float(codes.value[1]), bf16_to_float(codes.value[2]), bf16_to_float(codes.value[3])}};
}

DEVICE void store_four(void* base, u64 index, u32 type, const Four& four) {
    if (type == TYPE_F32) {
        *(Four*)((float*)base + index) = four;
    } else {
        FourCodes codes = {{float_to_bf16(four.value[0]), float_to_bf16(four.value[1]), float_to_bf16(four.value[2]), float_to_bf16(four.value[3])}};
        *(FourCodes*)((u16*)base + index) = codes;
    }
}

struct JoinOperands {
    void* residual;
    const void* branch;
    const float* post_weight; // of the branch's own norm, or null
    u32 residual_type, branch_type, stride;
    float inverse_columns, post_epsilon, scale;
};

// residual += scale * post_norm(branch) for the row that begins at `row`; this thread's part of the sum's squares.
DEVICE float join_row(const JoinOperands& p, u64 row, float* scratch) {
    float factor = 1.0f;
    if (p.post_weight) {
        float squares = 0.0f;
        for (u32 column = thread_index() * 4; column < p.stride; column += THREADS * 4) {
            Four branch = load_four(p.branch, row + column, p.branch_type);
#pragma unroll
            for (u32 i = 0; i < 4; i++) squares = multiply_add(branch.value[i], branch.value[i], squares);
        }
        factor = reciprocal_root(block_sum(squares, scratch) * p.inverse_columns + p.post_epsilon);
    }
    float squares = 0.0f;
    for (u32 column = thread_index() * 4; column < p.stride; column += THREADS * 4) {
        Four sum = load_four(p.residual, row + column, p.residual_type), branch = load_four(p.branch, row + column, p.branch_type);
        if (p.post_weight) {
            Four weight = load_four(p.post_weight, column, TYPE_F32);
#pragma unroll
            for (u32 i = 0; i < 4; i++) branch.value[i] = branch.value[i] * factor * weight.value[i];
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            sum.value[i] = multiply_add(branch.value[i], p.scale, sum.value[i]);
            squares = multiply_add(sum.value[i], sum.value[i], squares);
        }
        store_four(p.residual, row + column, p.residual_type, sum);
    }
    return squares;
}
