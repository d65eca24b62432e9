// Rotary positions, the norms of heads, and the write of keys and values into the paged cache.
//
// The cache of a layer is [block][kv head][token][head_dim] for keys and [block][kv head][head_dim][token] for values:
// attention multiplies both along their last dimension, so each is laid out as its matrix units read it.

struct RotaryParams {
    void* qkv;
    const float* query_norm; // [HEAD_DIM] or null
    const float* key_norm;
    const float* frequencies; // [pairs]
    void* keys; // of the layer
    void* values;
    const u32* positions;
    const u32* row_sequence;
    const Sequence* sequences;
    const u32* block_tables;
    u32 type, stride;
    u32 query_heads, kv_heads, pairs, block_size;
    float rotary_magnitude, epsilon;
    float key_scale, value_scale; // stored = value / scale
    float limit; // of FP8: the largest magnitude stored
};

struct SideNormParams {
    void* qkv;
    const float* query_norm; // [query_columns] or null
    const float* key_norm; // [key_columns] or null
    u32 type, stride;
    u32 query_columns, key_columns;
    float epsilon;
};

// The norm over all heads of a side together, in place, before they are rotated: grid rows, 2. Queries, then keys.
KERNEL(side_norm, THREADS, SideNormParams) {
    SHARED float scratch[WAVES];
    bool is_key = block_y() == 1;
    const float* norm = is_key ? p.key_norm : p.query_norm;
    if (!norm) return;
    u32 columns = is_key ? p.key_columns : p.query_columns;
    u64 start = (u64)block_x() * p.stride + (is_key ? p.query_columns : 0);
    float squares = 0.0f;
    for (u32 i = thread_index(); i < columns; i += THREADS) {
        float value = load_activation(p.qkv, start + i, p.type);
        squares = multiply_add(value, value, squares);
    }
    float factor = reciprocal_root(block_sum(squares, scratch) / (float)columns + p.epsilon);
    for (u32 i = thread_index(); i < columns; i += THREADS) {
        float value = load_activation(p.qkv, start + i, p.type);
        store_activation(p.qkv, start + i, p.type, value * factor * norm[i]);
    }
}

DEVICE void store_cached(void* base, u64 index, float value, float limit) {
#if CACHE_TYPE == TYPE_F32
    ((float*)base)[index] = value;
#elif CACHE_TYPE == TYPE_F16
    ((u16*)base)[index] = float_to_half(value);
#elif CACHE_TYPE == TYPE_BF16
    ((u16*)base)[index] = float_to_bf16(value);
#else
    ((u8*)base)[index] = (u8)float_to_float8<CACHE_TYPE>(larger(-limit, smaller(value, limit)));
#endif
}

#define HEAD_WAVES ((HEAD_DIM + WAVE - 1) / WAVE)

// One wave a head: grid rows, heads / WAVES. Heads are queries, keys, values.
KERNEL(rotary_and_cache, THREADS, RotaryParams) {
    SHARED float heads[WAVES][HEAD_DIM];
    u32 row = block_x(), lane = lane_index();
    u32 count = p.query_heads + 2 * p.kv_heads;
    u32 wanted = block_y() * WAVES + wave_index();
    // Waves without a head of their own repeat the last one's work and store nothing: all must reach the barriers.
    u32 head = lesser(wanted, count - 1);
    bool is_key = head >= p.query_heads && head < p.query_heads + p.kv_heads;
    bool is_value = head >= p.query_heads + p.kv_heads;
    u64 start = (u64)row * p.stride + (u64)head * HEAD_DIM;
    float* values = heads[wave_index()];
    float squares = 0.0f;
    for (u32 i = lane; i < HEAD_DIM; i += WAVE) {
        float value = load_activation(p.qkv, start + i, p.type);
        values[i] = value;
        squares = multiply_add(value, value, squares);
    }
    const float* norm = is_value ? (const float*)0 : is_key ? p.key_norm : p.query_norm;
    squares = wave_sum(squares);
    if (norm) {
        float factor = reciprocal_root(squares * (1.0f / HEAD_DIM) + p.epsilon);
        for (u32 i = lane; i < HEAD_DIM; i += WAVE) values[i] = values[i] * factor * norm[i];
    }
    wave_sync();
    if (!is_value) {
        float position = (float)p.positions[row];
        for (u32 pair = lane; pair < p.pairs; pair += WAVE) {
            float sine, cosine;
            sine_cosine(position * p.frequencies[pair], sine, cosine);
            float first = values[pair], second = values[pair + p.pairs];
            values[pair] = (first * cosine - second * sine) * p.rotary_magnitude;
            values[pair + p.pairs] = (second * cosine + first * sine) * p.rotary_magnitude;
        }
    }
    wave_sync();
    if (wanted >= count) return;
    if (!is_value)
        for (u32 i = lane; i < HEAD_DIM; i += WAVE) store_activation(p.qkv, start + i, p.type, values[i]);
    if (!is_key && !is_value) return;
    u32 position = p.positions[row];
    u64 block = p.block_tables[p.sequences[p.row_sequence[row]].first_block + position / p.block_size];
    u32 slot = position % p.block_size;
    u32 kv_head = head - p.query_heads - (is_value ? p.kv_heads : 0);
    u64 base = (block * p.kv_heads + kv_head) * p.block_size * HEAD_DIM;
    for (u32 i = lane; i < HEAD_DIM; i += WAVE) {
        if (is_key) store_cached(p.keys, base + (u64)slot * HEAD_DIM + i, values[i] / p.key_scale, p.limit);
        else store_cached(p.values, base + (u64)i * p.block_size + slot, values[i] / p.value_scale, p.limit);
    }
}
