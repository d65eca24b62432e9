// From logits to tokens: greedy, temperature, top-k, top-p and the draw, one block a row. As crates/octet-sample does it.
//
// Weights, e^((logit - largest) / temperature), are integers, in units of 2^-44. Sums of integers do not depend on their
// order: what comes out depends on neither the number of threads nor the wave's size, and the draw ends at exactly one
// token. 2^18 weights of at most 1 fit 64 bits.
//
// Logits are compared as integers in the same order (`ordered`). Everything that must be found, be it the k-th largest
// logit, the one at which the weight suffices, or the token that is drawn, is the largest threshold at which a sum over all
// that lies at or above it still reaches a target: one search finds each, two bits at a time.

#define SAMPLE_THREADS 1024
#define SAMPLE_WAVES (SAMPLE_THREADS / WAVE)

// With few tokens to keep, those that may be among them are listed in shared memory and searched there.
#define LISTED_MAX 2048
// Up to this many wanted, the list has room for them and for the others that reach the bound.
#define WANTED_MAX 512

// The draw looks at sums of chunks first.
#define CHUNKS_MAX 512
#define CHUNK_UNIT 1024

// The row cannot be sampled: NaN, infinity, or nothing but minus infinity. The host says what is wrong with it.
#define NOT_SAMPLED 0xffffffffu

#define ONE_WEIGHT 17592186044416.0f // 2^44

// One row's parameters, as the host writes them once a step.
struct SampleRow {
    u64 top_p; // in units of 2^-64; all ones: no limit
    u64 fraction; // where to draw, in units of 2^-64 of all weights
    u32 row; // of the logits
    u32 top_k; // 0: no limit
    float inverse_temperature; // 0: greedy
    u32 unused;
};

struct SampleParams {
    const float* logits;
    const SampleRow* rows;
    u32* tokens;
    u32 stride, columns;
};

struct SampleShared {
    u64 sums[3][SAMPLE_WAVES];
    u64 list[LISTED_MAX]; // logit (ordered), token
    u64 chunks[CHUNKS_MAX];
    u32 listed;
};

#if defined(SM)
DEVICE u32 count_up(u32* counter) { return atomicAdd(counter, 1u); }
#else
DEVICE u32 count_up(u32* counter) { return __hip_atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP); }
#endif

// The order of the integers is that of the numbers; -0 becomes 0.
DEVICE u32 ordered(float value) {
    u32 bits = bits_of<u32>(value + 0.0f);
    return bits ^ ((u32)((int)bits >> 31) | 0x80000000u);
}

DEVICE float number_of(u32 order) { return bits_of<float>(order ^ (order & 0x80000000u ? 0x80000000u : 0xffffffffu)); }

#define ORDERED_NEGATIVE_INFINITY 0x007fffffu

DEVICE u64 shuffle_xor_64(u64 value, u32 mask) {
    return (u64)shuffle_xor((u32)(value >> 32), mask) << 32 | shuffle_xor((u32)value, mask);
}

DEVICE u64 wave_sum_64(u64 value) {
#pragma unroll
    for (u32 mask = WAVE / 2; mask > 0; mask /= 2) value += shuffle_xor_64(value, mask);
    return value;
}

// Sums over the block, in every thread.
template <u32 COUNT> DEVICE void block_sums(u64 (&values)[COUNT], SampleShared& shared) {
#pragma unroll
    for (u32 i = 0; i < COUNT; i++) {
        values[i] = wave_sum_64(values[i]);
        if (lane_index() == 0) shared.sums[i][wave_index()] = values[i];
    }
    block_sync();
#pragma unroll
    for (u32 i = 0; i < COUNT; i++) {
        values[i] = 0;
        for (u32 wave = 0; wave < SAMPLE_WAVES; wave++) values[i] += shared.sums[i][wave];
    }
    // The next sums go to the same place.
    block_sync();
}

DEVICE u64 block_sum_64(u64 value, SampleShared& shared) {
    u64 values[1] = {value};
    block_sums(values, shared);
    return values[0];
}

DEVICE u64 block_largest_64(u64 value, SampleShared& shared) {
#pragma unroll
    for (u32 mask = WAVE / 2; mask > 0; mask /= 2) {
        u64 other = shuffle_xor_64(value, mask);
        value = other > value ? other : value;
    }
    if (lane_index() == 0) shared.sums[0][wave_index()] = value;
    block_sync();
    for (u32 wave = 0; wave < SAMPLE_WAVES; wave++) value = shared.sums[0][wave] > value ? shared.sums[0][wave] : value;
    block_sync();
    return value;
}

// The upper 64 bits of a product.
DEVICE u64 multiply_high(u64 a, u64 b) {
    u64 a_low = (u32)a, a_high = a >> 32, b_low = (u32)b, b_high = b >> 32;
    u64 low = a_low * b_low, one = a_high * b_low + (low >> 32), other = a_low * b_high + (u32)one;
    return a_high * b_high + (one >> 32) + (other >> 32);
}

// Weights of logits.
struct Weighing {
    float largest, inverse_temperature;
    DEVICE_MEMBER u64 operator()(u32 order) const {
        return (u64)(exponential((number_of(order) - largest) * inverse_temperature) * ONE_WEIGHT);
    }
};

// What is searched: a row, or the list of its best tokens.
struct Tokens {
    const float* logits;
    u32 columns;
    const u64* list; // or null
    u32 listed;

    // Calls `visit(order, token)` for each, every thread for its own.
    template <class Visit> DEVICE_MEMBER void each(Visit visit) const {
        if (list) {
            for (u32 index = thread_index(); index < listed; index += SAMPLE_THREADS) visit((u32)(list[index] >> 32), (u32)list[index]);
            return;
        }
        for (u32 first = thread_index() * 4; first < columns; first += SAMPLE_THREADS * 4) {
            Four four = load_four(logits, first, TYPE_F32);
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                if (first + i < columns) visit(ordered(four.value[i]), first + i);
        }
    }
};

// Finds the largest threshold, of the bits from `top` + 1 down to `bottom`, such that the sum of `amount(order, token)` over
// all tokens whose `key(order, token)` reaches it is at least `target`. The sum over all tokens must be.
template <class Each, class Key, class Amount>
DEVICE u32 largest_threshold(const Each& tokens, Key key, Amount amount, u64 target, int top, int bottom, SampleShared& shared) {
    u32 threshold = 0;
    for (int bit = top; bit >= bottom; bit -= 2) {
        u64 sums[3] = {0, 0, 0};
        u32 step = 1u << bit;
        tokens.each([&](u32 order, u32 token) {
            u32 at = key(order, token);
            if (at < threshold + step) return;
            u64 mine = amount(order, token);
            sums[0] += mine;
            if (at >= threshold + 2 * step) sums[1] += mine;
            if (at >= threshold + 3 * step) sums[2] += mine;
        });
        block_sums(sums, shared);
        threshold += step * ((u32)(sums[0] >= target) + (u32)(sums[1] >= target) + (u32)(sums[2] >= target));
    }
    return threshold;
}

// One number a thread.
struct OwnLargest {
    u32 order;
    template <class Visit> DEVICE_MEMBER void each(Visit visit) const { visit(order, 0u); }
};

// A part of a row.
struct Chunk {
    const float* logits;
    u32 first, end;
    template <class Visit> DEVICE_MEMBER void each(Visit visit) const {
        for (u32 token = first + thread_index(); token < end; token += SAMPLE_THREADS) visit(ordered(logits[token]), token);
    }
};

// Which tokens are left: those above a logit, and of those at it the tokens up to `last`.
struct Kept {
    u32 order, last;
    DEVICE_MEMBER bool operator()(u32 other, u32 token) const { return other > order || (other == order && token <= last); }
};

DEVICE u32 order_of(u32 order, u32) { return order; }
DEVICE u64 one_of(u32, u32) { return 1; }

// Lists the tokens that reach a bound which at least `wanted` do, if they fit. Returns the weight of all tokens.
DEVICE u64 list_best(Tokens& tokens, u32 own_largest, u32 wanted, const Weighing& weigh, SampleShared& shared) {
    // So many threads have a logit at or above it. The lower half of its bits hardly matters.
    OwnLargest largest = {own_largest};
    u32 bound = largest_threshold(largest, order_of, one_of, wanted, 30, 16, shared);
    if (thread_index() == 0) shared.listed = 0;
    block_sync();
    u64 sum = 0;
    tokens.each([&](u32 order, u32 token) {
        sum += weigh(order);
        if (order < bound) return;
        u32 index = count_up(&shared.listed);
        if (index < LISTED_MAX) shared.list[index] = (u64)order << 32 | token;
    });
    sum = block_sum_64(sum, shared);
    if (shared.listed <= LISTED_MAX) {
        tokens.list = shared.list;
        tokens.listed = shared.listed;
    }
    return sum;
}

// The fewest best tokens whose weight reaches `target`.
DEVICE Kept keep_weight(const Tokens& tokens, const Weighing& weigh, u64 target, SampleShared& shared) {
    auto weight_of = [&](u32 order, u32) { return weigh(order); };
    u32 order = largest_threshold(tokens, order_of, weight_of, target, 30, 0, shared);
    u64 sums[2] = {0, 0};
    tokens.each([&](u32 other, u32) {
        if (other > order) sums[0] += weigh(other);
        if (other == order) sums[1]++;
    });
    block_sums(sums, shared);
    // Of equal ones the lowest tokens, as many as it takes.
    u64 each = weigh(order), needed = (target - sums[0] + each - 1) / each;
    if (needed >= sums[1]) return {order, 0xffffffffu};
    auto reversed = [](u32, u32 token) { return ~token; };
    auto is_equal = [&](u32 other, u32) { return (u64)(other == order); };
    return {order, ~largest_threshold(tokens, reversed, is_equal, needed, 30, 0, shared)};
}

// Top-k, then top-p of what that leaves.
DEVICE Kept truncate(const SampleRow& wanted, Tokens tokens, u32 own_largest, const Weighing& weigh, SampleShared& shared) {
    bool is_counted = wanted.top_k != 0 && wanted.top_k < tokens.columns;
    Kept kept = {0, 0xffffffffu};
    u64 total = 0;
    Tokens row = tokens;
    if (!is_counted || wanted.top_k <= WANTED_MAX) total = list_best(tokens, own_largest, is_counted ? wanted.top_k : WANTED_MAX, weigh, shared);
    if (is_counted) {
        kept.order = largest_threshold(tokens, order_of, one_of, wanted.top_k, 30, 0, shared);
        total = 0;
        tokens.each([&](u32 order, u32) { total += order >= kept.order ? weigh(order) : 0; });
        total = block_sum_64(total, shared);
    }
    if (wanted.top_p == ~0ull) return kept;
    u64 target = multiply_high(total, wanted.top_p) + (total * wanted.top_p != 0);
    if (!is_counted && tokens.list) {
        u64 listed = 0;
        tokens.each([&](u32 order, u32) { listed += weigh(order); });
        if (block_sum_64(listed, shared) < target) tokens = row;
    }
    return keep_weight(tokens, weigh, target > 0 ? target : 1, shared);
}

// The token at which the running sum of weights passes the fraction of them all.
DEVICE u32 draw(const Tokens& row, const Kept& kept, const Weighing& weigh, u64 fraction, SampleShared& shared) {
    auto weight_of = [&](u32 order, u32 token) { return kept(order, token) ? weigh(order) : 0; };
    u32 units = (row.columns + CHUNK_UNIT - 1) / CHUNK_UNIT;
    u32 length = (units + CHUNKS_MAX - 1) / CHUNKS_MAX * CHUNK_UNIT;
    u32 chunks = (row.columns + length - 1) / length;
    for (u32 chunk = wave_index(); chunk < chunks; chunk += SAMPLE_WAVES) {
        u64 sum = 0;
        u32 end = lesser((chunk + 1) * length, row.columns);
        for (u32 first = chunk * length + lane_index() * 4; first < end; first += WAVE * 4) {
            Four four = load_four(row.logits, first, TYPE_F32);
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                if (first + i < end) sum += weight_of(ordered(four.value[i]), first + i);
        }
        sum = wave_sum_64(sum);
        if (lane_index() == 0) shared.chunks[chunk] = sum;
    }
    block_sync();
    u64 total = 0;
    for (u32 chunk = 0; chunk < chunks; chunk++) total += shared.chunks[chunk];
    // Less than the total, which is at least the weight of the largest logit.
    u64 rest = multiply_high(total, fraction);
    u32 chunk = 0;
    while (rest >= shared.chunks[chunk]) rest -= shared.chunks[chunk++];
    u32 first = chunk * length, end = lesser(first + length, row.columns);
    Chunk part = {row.logits, first, end};
    auto reversed = [&](u32, u32 token) { return end - 1 - token; };
    int top = 8;
    while (length > 4u << top) top += 2;
    return end - 1 - largest_threshold(part, reversed, weight_of, rest + 1, top, 0, shared);
}

// Grid: rows to sample.
KERNEL(sample, SAMPLE_THREADS, SampleParams) {
    SHARED SampleShared shared;
    SampleRow wanted = p.rows[block_x()];
    Tokens row = {p.logits + (u64)wanted.row * p.stride, p.columns, (const u64*)0, 0};
    // The largest logit and the lowest token that has it.
    u64 best = 0;
    row.each([&](u32 order, u32 token) {
        u64 mine = (u64)order << 32 | (u32)~token;
        best = mine > best ? mine : best;
        // Infinity and NaN, whatever its sign.
        bool is_finite = bits_of<u32>(magnitude(number_of(order))) < 0x7f800000u;
        if (!is_finite && order != ORDERED_NEGATIVE_INFINITY) best = ~0ull;
    });
    u32 own_largest = (u32)(best >> 32);
    best = block_largest_64(best, shared);
    u32 largest = (u32)(best >> 32), token = (u32)~best;
    if (best == ~0ull || largest <= ORDERED_NEGATIVE_INFINITY) {
        token = NOT_SAMPLED;
    } else if (wanted.inverse_temperature != 0.0f) {
        Weighing weigh = {number_of(largest), wanted.inverse_temperature};
        Kept kept = {0, 0xffffffffu};
        if ((wanted.top_k != 0 && wanted.top_k < p.columns) || wanted.top_p != ~0ull) kept = truncate(wanted, row, own_largest, weigh, shared);
        token = draw(row, kept, weigh, wanted.fraction, shared);
    }
    if (thread_index() == 0) p.tokens[block_x()] = token;
}
