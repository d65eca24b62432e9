// What lanes of a wave do together: permutations, DPP, votes. Every lane must take part.

struct hipsim_exchange {
    int value;
    int other;
    int result;
    unsigned control;
    unsigned masks;
    bool zero;
};

// Value of a lane that the instruction leaves undefined: a NaN, so that using it shows.
static constexpr int HIPSIM_UNDEFINED = 0x7fc0dead;

static inline unsigned hipsim_row_of(unsigned lane) { return lane & ~15u; }

// The lane that `lane` reads under a DPP control, or -1 if there is none.
static inline int hipsim_dpp_source(unsigned control, unsigned lane) {
    unsigned row = hipsim_row_of(lane), at = lane & 15u, by = control & 15u;
    if (control <= 0xff) return (int)((lane & ~3u) | (control >> (2 * (lane & 3u)) & 3u));
    switch (control & ~15u) {
        case 0x100: return at + by < 16 ? (int)(lane + by) : -1;             // row_shl
        case 0x110: return at >= by ? (int)(lane - by) : -1;                 // row_shr
        case 0x120: return (int)(row | ((at - by) & 15u));                   // row_ror
#if HIPSIM_WAVE == 32 || HIPSIM_GFX == 0x90a || HIPSIM_GFX == 0x942 || HIPSIM_GFX == 0x950
        case 0x150: return (int)(row | by);                                  // row_share, row_newbcast
#endif
#if HIPSIM_WAVE == 32
        case 0x160: return (int)(lane ^ by);                                 // row_xmask
#endif
        default: break;
    }
    if (control == 0x140) return (int)(row | (15u - at));                    // row_mirror
    if (control == 0x141) return (int)((lane & ~7u) | (7u - (lane & 7u)));   // row_half_mirror
#if HIPSIM_WAVE == 64
    switch (control) {
        case 0x130: return lane < 63 ? (int)lane + 1 : -1;                   // wave_shl
        case 0x134: return (int)((lane + 1) & 63u);                          // wave_rol
        case 0x138: return (int)lane - 1;                                    // wave_shr
        case 0x13c: return (int)((lane - 1) & 63u);                          // wave_ror
        case 0x142: return (int)row - 1;                                     // row_bcast15
        case 0x143: return lane >= 32 ? 31 : -1;                             // row_bcast31
        default: break;
    }
#endif
    return -2;
}

static void hipsim_apply_dpp(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) {
        hipsim_exchange& mine = *lanes[lane];
        unsigned row_mask = mine.masks >> 4, bank_mask = mine.masks & 15u;
        int source = hipsim_dpp_source(mine.control, lane);
        bool enabled = (row_mask >> (lane / 16) & 1u) && (bank_mask >> (lane % 16 / 4) & 1u);
        if (!enabled) mine.result = mine.other;
        else if (source >= 0) mine.result = lanes[source]->value;
        else mine.result = mine.zero ? 0 : mine.other;
    }
}

static inline int hipsim_dpp(unsigned site, int old, int value, unsigned control, unsigned masks, bool zero) {
    if (hipsim_dpp_source(control, 0) == -2) hipsim_fault("this DPP control does not exist on the architecture");
    hipsim_exchange exchange = {value, old, 0, control, masks, zero};
    hipsim_collect(site, exchange, hipsim_apply_dpp);
    return exchange.result;
}

#define __builtin_amdgcn_update_dpp(old, value, control, rows, banks, zero)                                        \
    hipsim_dpp(HIPSIM_SITE, (int)(old), (int)(value), (control), (unsigned)(rows) << 4 | (unsigned)(banks), (zero))
#define __builtin_amdgcn_mov_dpp(value, control, rows, banks, zero)                                                \
    hipsim_dpp(HIPSIM_SITE, HIPSIM_UNDEFINED, (int)(value), (control), (unsigned)(rows) << 4 | (unsigned)(banks), (zero))

static void hipsim_apply_dpp8(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane)
        lanes[lane]->result = lanes[(lane & ~7u) | (lanes[lane]->control >> (3 * (lane & 7u)) & 7u)]->value;
}

// Pull: each lane names the lane that it reads.
static void hipsim_apply_bpermute(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane)
        lanes[lane]->result = lanes[((unsigned)lanes[lane]->other >> 2) % HIPSIM_WAVE]->value;
}

// Push: each lane names the lane that it writes; of several the highest wins, and nobody's target reads zero.
static void hipsim_apply_permute(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) lanes[lane]->result = 0;
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane)
        lanes[((unsigned)lanes[lane]->other >> 2) % HIPSIM_WAVE]->result = lanes[lane]->value;
}

static void hipsim_apply_swizzle(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) {
        unsigned pattern = lanes[lane]->control, group = lane & ~31u, at = lane & 31u, source;
        if (pattern & 0x8000u) source = (lane & ~3u) | (pattern >> (2 * (lane & 3u)) & 3u);
        else source = group | (((at & (pattern & 31u)) | (pattern >> 5 & 31u)) ^ (pattern >> 10 & 31u));
        lanes[lane]->result = lanes[source]->value;
    }
}

static void hipsim_apply_readlane(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) {
        // The lane is a scalar on a GPU: a kernel in which it differs compiles to something else.
        unsigned source = (unsigned)lanes[lane]->other % HIPSIM_WAVE;
        lanes[lane]->result = lanes[0]->other == lanes[lane]->other ? lanes[source]->value : HIPSIM_UNDEFINED;
    }
}

// permlane16 and permlanex16: within its row, or the other row of its pair.
static void hipsim_apply_permlane(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) {
        unsigned selectors = (lane & 15u) < 8 ? (unsigned)lanes[lane]->other : lanes[lane]->control;
        unsigned row = hipsim_row_of(lane) ^ lanes[lane]->masks;
        lanes[lane]->result = lanes[row | (selectors >> (4 * (lane & 7u)) & 15u)]->value;
    }
}

static void hipsim_apply_nothing(hipsim_exchange* const*) {}

static inline int hipsim_exchange_by(unsigned site, hipsim_exchange exchange, void (*apply)(hipsim_exchange* const*)) {
    hipsim_collect(site, exchange, apply);
    return exchange.result;
}

#define __builtin_amdgcn_ds_bpermute(address, value)                                                          \
    hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{(int)(value), (int)(address), 0, 0, 0, false},            \
                       hipsim_apply_bpermute)
#define __builtin_amdgcn_ds_permute(address, value)                                                           \
    hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{(int)(value), (int)(address), 0, 0, 0, false},            \
                       hipsim_apply_permute)
#define __builtin_amdgcn_ds_swizzle(value, pattern)                                                           \
    hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{(int)(value), 0, 0, (pattern), 0, false},                 \
                       hipsim_apply_swizzle)
#define __builtin_amdgcn_readlane(value, lane)                                                                \
    hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{(int)(value), (int)(lane), 0, 0, 0, false},               \
                       hipsim_apply_readlane)
#define __builtin_amdgcn_readfirstlane(value)                                                                 \
    hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{(int)(value), 0, 0, 0, 0, false}, hipsim_apply_readlane)
#define __builtin_amdgcn_wave_barrier()                                                                       \
    ((void)hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{0, 0, 0, 0, 0, false}, hipsim_apply_nothing))
#if HIPSIM_WAVE == 32
#define __builtin_amdgcn_mov_dpp8(value, selectors)                                                           \
    ((unsigned)hipsim_exchange_by(HIPSIM_SITE, hipsim_exchange{(int)(value), 0, 0, (selectors), 0, false},    \
                                  hipsim_apply_dpp8))
#define __builtin_amdgcn_permlane16(old, value, low, high, inactive, zero)                                    \
    ((unsigned)hipsim_exchange_by(HIPSIM_SITE,                                                                \
                                  hipsim_exchange{(int)(value), (int)(low), 0, (unsigned)(high), 0, false},   \
                                  hipsim_apply_permlane))
#define __builtin_amdgcn_permlanex16(old, value, low, high, inactive, zero)                                   \
    ((unsigned)hipsim_exchange_by(HIPSIM_SITE,                                                                \
                                  hipsim_exchange{(int)(value), (int)(low), 0, (unsigned)(high), 16, false},  \
                                  hipsim_apply_permlane))
#endif

#if HIPSIM_GFX == 0x950
typedef unsigned hipsim_uint2 __attribute__((ext_vector_type(2)));

// Swaps the odd groups of `masks` lanes of the first operand with the even ones of the second.
static void hipsim_apply_swap(hipsim_exchange* const* lanes) {
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) {
        unsigned group = lanes[lane]->masks;
        bool odd = lane / group & 1u;
        lanes[lane]->result = odd ? lanes[lane - group]->other : lanes[lane]->value;
        lanes[lane]->control = (unsigned)(odd ? lanes[lane]->other : lanes[lane + group]->value);
    }
}

static inline hipsim_uint2 hipsim_swap(unsigned site, unsigned first, unsigned second, unsigned group) {
    hipsim_exchange exchange = {(int)first, (int)second, 0, 0, group, false};
    hipsim_collect(site, exchange, hipsim_apply_swap);
    return hipsim_uint2{(unsigned)exchange.result, exchange.control};
}
#define __builtin_amdgcn_permlane16_swap(first, second, inactive, zero) hipsim_swap(HIPSIM_SITE, first, second, 16)
#define __builtin_amdgcn_permlane32_swap(first, second, inactive, zero) hipsim_swap(HIPSIM_SITE, first, second, 32)
#endif

struct hipsim_vote {
    bool mine;
    unsigned long long all;
};

static void hipsim_apply_ballot(hipsim_vote* const* lanes) {
    unsigned long long all = 0;
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) all |= (unsigned long long)lanes[lane]->mine << lane;
    for (unsigned lane = 0; lane < HIPSIM_WAVE; ++lane) lanes[lane]->all = all;
}

static inline unsigned long long hipsim_ballot(unsigned site, bool mine) {
    hipsim_vote vote = {mine, 0};
    hipsim_collect(site, vote, hipsim_apply_ballot);
    return vote.all;
}
#define __builtin_amdgcn_ballot_w64(mine) hipsim_ballot(HIPSIM_SITE, (mine))
#if HIPSIM_WAVE == 32
#define __builtin_amdgcn_ballot_w32(mine) ((unsigned)hipsim_ballot(HIPSIM_SITE, (mine)))
#endif
