// Arithmetic that a compiler for AMD has built in: approximations, 16-bit and FP8 conversions.
//
// The approximations are computed exactly here: what their last bits are on a GPU is for the self-test on hardware.

template <class To, class From>
static inline To hipsim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a value and its bits have one size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

static inline float hipsim_bf16_to_float(unsigned short bits) { return hipsim_bits<float>((unsigned)bits << 16); }

// The host's compiler calls these for its own __bf16; they are in no library that Debian has.
extern "C" __attribute__((weak, visibility("hidden"))) __bf16 __truncsfbf2(float value) {
    unsigned bits = hipsim_bits<unsigned>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return hipsim_bits<__bf16>((unsigned short)(bits >> 16 | 0x40));
    return hipsim_bits<__bf16>((unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16));
}

static inline float __builtin_amdgcn_exp2f(float x) { return __builtin_exp2f(x); }
static inline float __builtin_amdgcn_logf(float x) { return __builtin_log2f(x); }
static inline float __builtin_amdgcn_rcpf(float x) { return 1.0f / x; }
static inline float __builtin_amdgcn_rsqf(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline float __builtin_amdgcn_sqrtf(float x) { return __builtin_sqrtf(x); }
static inline float __builtin_amdgcn_fractf(float x) { return x - __builtin_floorf(x); }
static inline float __builtin_amdgcn_ldexpf(float x, int exponent) { return __builtin_ldexpf(x, exponent); }
// Turns, not radians.
static inline float __builtin_amdgcn_sinf(float x) { return __builtin_sinf(x * 6.283185307179586f); }
static inline float __builtin_amdgcn_cosf(float x) { return __builtin_cosf(x * 6.283185307179586f); }

static inline float __builtin_amdgcn_fmed3f(float a, float b, float c) {
    // With a NaN the instruction returns the smallest of the three, NaN apart.
    if (a != a || b != b || c != c) return __builtin_fminf(__builtin_fminf(a, b), c);
    return __builtin_fmaxf(__builtin_fminf(a, b), __builtin_fminf(__builtin_fmaxf(a, b), c));
}

static inline unsigned __builtin_amdgcn_ubfe(unsigned value, unsigned offset, unsigned width) {
    return width % 32 == 0 ? 0 : (value >> (offset % 32)) & ((1u << (width % 32)) - 1u);
}

// Selects four of the eight bytes {high, low}; byte 0 is the lowest of `low`. 12 is the byte 0x00, above it 0xff.
static inline unsigned __builtin_amdgcn_perm(unsigned high, unsigned low, unsigned selector) {
    unsigned long long bytes = (unsigned long long)high << 32 | low;
    unsigned result = 0;
    for (int index = 0; index < 4; ++index) {
        unsigned select = selector >> (8 * index) & 0xff, byte;
        if (select < 8) byte = (unsigned)(bytes >> (8 * select)) & 0xff;
        else if (select < 12) byte = (bytes >> (16 * (select - 8) + 15) & 1) ? 0xff : 0;
        else byte = select == 12 ? 0 : 0xff;
        result |= byte << (8 * index);
    }
    return result;
}

static inline unsigned __builtin_amdgcn_alignbit(unsigned high, unsigned low, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

typedef _Float16 hipsim_half2 __attribute__((ext_vector_type(2)));
typedef float hipsim_float2 __attribute__((ext_vector_type(2)));

static inline float __builtin_amdgcn_fdot2(hipsim_half2 a, hipsim_half2 b, float c, bool) {
    return (float)a.x * (float)b.x + (float)a.y * (float)b.y + c;
}

// An FP8 format: mantissa bits, exponent bias, and whether it is one of those with a single NaN and no negative zero.
template <int MANTISSA, int BIAS, bool FNUZ>
struct hipsim_float8 {
    static constexpr int SMALLEST = 1 - BIAS;

    static float decode(unsigned code) {
        unsigned magnitude = code & 0x7f, sign = code >> 7 & 1;
        float signum = sign ? -1.0f : 1.0f;
        if (FNUZ && code == 0x80) return __builtin_nanf("");
        if (!FNUZ && MANTISSA == 3 && magnitude == 0x7f) return __builtin_nanf("");
        if (!FNUZ && MANTISSA == 2 && magnitude > 0x7c) return __builtin_nanf("");
        if (!FNUZ && MANTISSA == 2 && magnitude == 0x7c) return signum * __builtin_inff();
        int exponent = (int)(magnitude >> MANTISSA), fraction = (int)(magnitude & ((1u << MANTISSA) - 1u));
        if (exponent == 0) return signum * __builtin_ldexpf((float)fraction, SMALLEST - MANTISSA);
        return signum * __builtin_ldexpf((float)(fraction + (1 << MANTISSA)), exponent - BIAS - MANTISSA);
    }

    // Rounds to nearest, ties to even. What is too large is not clamped: a kernel that forgets to must show.
    static unsigned encode(float value) {
        unsigned sign = hipsim_bits<unsigned>(value) >> 31 << 7;
        unsigned overflow = FNUZ ? 0x80u : sign | (MANTISSA == 3 ? 0x7fu : 0x7cu);
        unsigned largest = FNUZ ? 0x7f : MANTISSA == 3 ? 0x7e : 0x7b;
        if (value != value) return FNUZ ? 0x80u : sign | 0x7fu;
        float magnitude = __builtin_fabsf(value);
        if (magnitude > 1e6f) return overflow;
        int exponent = (int)(hipsim_bits<unsigned>(magnitude) >> 23) - 127;
        if (exponent < SMALLEST) exponent = SMALLEST;
        unsigned steps = (unsigned)__builtin_rintf(__builtin_ldexpf(magnitude, MANTISSA - exponent));
        unsigned code = steps + ((unsigned)(exponent - SMALLEST) << MANTISSA);
        if (code > largest) return overflow;
        return FNUZ && code == 0 ? 0 : sign | code;
    }
};

#if HIPSIM_FLOAT8 == 1
typedef hipsim_float8<3, 8, true> hipsim_fp8;
typedef hipsim_float8<2, 16, true> hipsim_bf8;
#elif HIPSIM_FLOAT8 == 2
typedef hipsim_float8<3, 7, false> hipsim_fp8;
typedef hipsim_float8<2, 15, false> hipsim_bf8;
#endif

#if HIPSIM_FLOAT8
// All values of a format, so that a matrix instruction need not decode bit by bit.
template <class Format>
struct hipsim_table {
    float values[256];
    hipsim_table() {
        for (unsigned code = 0; code < 256; ++code) values[code] = Format::decode(code);
    }
};
static const hipsim_table<hipsim_fp8> hipsim_fp8_values;
static const hipsim_table<hipsim_bf8> hipsim_bf8_values;

static inline float __builtin_amdgcn_cvt_f32_fp8(int codes, int byte) {
    return hipsim_fp8_values.values[(unsigned)codes >> (8 * byte) & 0xff];
}
static inline float __builtin_amdgcn_cvt_f32_bf8(int codes, int byte) {
    return hipsim_bf8_values.values[(unsigned)codes >> (8 * byte) & 0xff];
}
static inline hipsim_float2 __builtin_amdgcn_cvt_pk_f32_fp8(int codes, bool high) {
    int shifted = (int)((unsigned)codes >> (high ? 16 : 0));
    return hipsim_float2{__builtin_amdgcn_cvt_f32_fp8(shifted, 0), __builtin_amdgcn_cvt_f32_fp8(shifted, 1)};
}
static inline hipsim_float2 __builtin_amdgcn_cvt_pk_f32_bf8(int codes, bool high) {
    int shifted = (int)((unsigned)codes >> (high ? 16 : 0));
    return hipsim_float2{__builtin_amdgcn_cvt_f32_bf8(shifted, 0), __builtin_amdgcn_cvt_f32_bf8(shifted, 1)};
}
static inline int hipsim_pack(unsigned first, unsigned second, int old, bool high) {
    unsigned pair = first | second << 8;
    return (int)(high ? ((unsigned)old & 0xffffu) | pair << 16 : ((unsigned)old & 0xffff0000u) | pair);
}
static inline int __builtin_amdgcn_cvt_pk_fp8_f32(float first, float second, int old, bool high) {
    return hipsim_pack(hipsim_fp8::encode(first), hipsim_fp8::encode(second), old, high);
}
static inline int __builtin_amdgcn_cvt_pk_bf8_f32(float first, float second, int old, bool high) {
    return hipsim_pack(hipsim_bf8::encode(first), hipsim_bf8::encode(second), old, high);
}
#endif
