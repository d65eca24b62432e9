// Paged attention of a ragged batch, prefill and decode alike.
//
// A tile is up to 16 queries that read the same keys: GROUP query heads of one KV head times as many neighbouring
// tokens as fit. A block takes one tile; its waves take turns along the context, 32 keys at a time, each with its own
// running maximum and sum (Milakov and Gimelshein, "Online normalizer calculation for softmax"), and meet at the end.
// Few tiles are also split over blocks: `splits` of them leave partial results, which `attention_combine` adds up.
//
// HEAD_DIM and CACHE_TYPE are set by the host. Scores are keys . queries transposed, outputs values . probabilities, so
// that both matrices of the cache are read along their rows. Between the two products probabilities pass through shared
// memory, in which the layouts of results and operands meet on every device.

struct AttentionParams {
    const void* qkv;
    void* output;
    const void* keys; // of the layer; see rotary.cu
    const void* values;
    float* partial; // [splits][rows][query_heads][HEAD_DIM + 2], or null with one split
    const u32* positions;
    const u32* row_sequence;
    const Sequence* sequences;
    const u32* block_tables;
    u32 type, qkv_stride, output_stride;
    u32 query_heads, kv_heads, block_size, rows;
    u32 window; // 0: all of the past
    u32 splits;
    // Scores times log2(e) are `score_scale * products`, or `score_cap * tanh(score_scale * products)` with a cap.
    float score_scale, score_cap;
    float value_scale;
};

#define KEYS 32
// Head dimensions padded to whole products.
#define STEPS ((HEAD_DIM + 31) / 32)
#define VALUE_TILES (HEAD_DIM / 16)
#define TERMS terms_of(CACHE_TYPE)
#define SCORE_STRIDE (KEYS + 1)
#define PROBABILITY_STRIDE (KEYS + 8)

// A tile's place in the batch.
struct Tile {
    u32 first_row, tokens; // of the batch, and how many of them
    u32 heads, first_head; // query heads of each
    u32 kv_head;
    u32 first_block; // of the sequence's table
    u32 first_key, end_key; // what at least one query sees
};

// Where 8 keys of a KV head lie in the cache: the first of `elements` a token.
DEVICE u64 cache_base(const AttentionParams& p, const Tile& tile, u32 key) {
    u64 block = p.block_tables[tile.first_block + key / p.block_size];
    return (block * p.kv_heads + tile.kv_head) * p.block_size * HEAD_DIM;
}

DEVICE bool find_tile(const AttentionParams& p, Tile& tile) {
    u32 row = block_x();
    Sequence sequence = p.sequences[p.row_sequence[row]];
    u32 group = p.query_heads / p.kv_heads;
    u32 head_tiles = (group + 15) / 16;
    tile.heads = lesser(group, 16);
    u32 tokens = 16 / tile.heads;
    // One block is launched for each row; those that do not begin a tile have nothing to do.
    u32 offset = row - sequence.first_row;
    if (offset % tokens != 0) return false;
    tile.first_row = row;
    tile.tokens = lesser(tokens, sequence.rows - offset);
    tile.kv_head = block_y() / head_tiles;
    u32 head = block_y() % head_tiles * 16;
    tile.first_head = tile.kv_head * group + head;
    tile.heads = lesser(tile.heads, group - head);
    tile.first_block = sequence.first_block;
    u32 position = p.positions[row];
    tile.end_key = position + tile.tokens;
    tile.first_key = p.window && position + 1 > p.window ? position + 1 - p.window : 0;
    return true;
}

// The token and head of a query of the tile; those beyond the last repeat it.
DEVICE u32 query_row(const Tile& tile, u32 query) { return tile.first_row + lesser(query / tile.heads, tile.tokens - 1); }
DEVICE u32 query_head(const Tile& tile, u32 query) { return tile.first_head + query % tile.heads; }

#define QUERY_STRIDE (STEPS * 32 + 8)

// The tile's queries, rounded to bf16, to shared memory as [query][element]; beyond the head they are 0.
template <u32 TYPE> DEVICE void load_queries(const AttentionParams& p, const Tile& tile, u16* queries) {
    for (u32 piece = thread_index(); piece < 16 * STEPS * 4; piece += THREADS) {
        u32 query = piece / (STEPS * 4), element = piece % (STEPS * 4) * 8;
        u64 start = (u64)query_row(tile, query) * p.qkv_stride + (u64)query_head(tile, query) * HEAD_DIM;
        Piece eight = {{0, 0, 0, 0}};
        if (element < HEAD_DIM) eight = rounded<TYPE>(load_raw<TYPE>(p.qkv, start + element));
        *(Piece*)(queries + query * QUERY_STRIDE + element) = eight;
    }
}

// Scores of 32 keys, to shared memory as [query][key]. Keys beyond the end repeat the last one.
DEVICE void score_keys(const AttentionParams& p, const Tile& tile, const u16* queries, u32 first_key, float* scores) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u64 start[PIECES];
#pragma unroll
        for (u32 i = 0; i < PIECES; i++) {
            u32 key = lesser(first_key + half * 16 + piece_row(i), tile.end_key - 1);
            start[i] = cache_base(p, tile, key) + (u64)(key % p.block_size) * HEAD_DIM;
        }
        Acc acc = zero_acc();
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            Operand key[TERMS], query;
#pragma unroll
            for (u32 i = 0; i < PIECES; i++) {
                u32 element = step * 32 + piece_k(i);
                query.piece[i] = *(const Piece*)(queries + piece_row(i) * QUERY_STRIDE + element);
                Raw<CACHE_TYPE> raw = load_raw<CACHE_TYPE>(p.keys, start[i] + lesser(element, HEAD_DIM - 8));
                Piece terms[3];
                split<CACHE_TYPE>(raw, terms);
#pragma unroll
                for (u32 term = 0; term < TERMS; term++) {
#pragma unroll
                    for (u32 pair = 0; pair < 4; pair++) key[term].piece[i].pair[pair] = element < HEAD_DIM ? terms[term].pair[pair] : 0;
                }
            }
#pragma unroll
            for (u32 term = 0; term < TERMS; term++) multiply(acc, key[TERMS - 1 - term], query);
            keep_order();
        }
#pragma unroll
        for (u32 i = 0; i < ACC_VALUES; i++) scores[acc_column(i) * SCORE_STRIDE + half * 16 + acc_row(i)] = acc.value[i];
    }
}

// A query's softmax so far: one lane or several (WAVE / 16) share it, lane % 16 is the query.
struct Softmax {
    float largest, sum; // the sum is this lane's share
};

#define PARTS (WAVE / 16)

// Scores to probabilities, and by how much earlier sums shrink.
DEVICE void weigh_keys(const AttentionParams& p, const Tile& tile, Softmax& softmax, u32 first_key, const float* scores,
                       u16* probabilities, float* shrink) {
    u32 query = lane_index() % 16, part = lane_index() / 16;
    u32 position = p.positions[query_row(tile, query)];
    float score[KEYS / PARTS];
    float largest = softmax.largest;
#pragma unroll
    for (u32 i = 0; i < KEYS / PARTS; i++) {
        u32 column = part * (KEYS / PARTS) + i, key = first_key + column;
        bool is_seen = key <= position && (p.window == 0 || key + p.window > position);
        float value = scores[query * SCORE_STRIDE + column] * p.score_scale;
        if (p.score_cap > 0.0f) value = p.score_cap * hyperbolic_tangent(value);
        score[i] = is_seen ? value : NEGATIVE_INFINITY;
        largest = larger(largest, score[i]);
    }
#pragma unroll
    for (u32 mask = 16; mask < WAVE; mask *= 2) largest = larger(largest, bits_of<float>(shuffle_xor(bits_of<u32>(largest), mask)));
    // Nothing seen yet: any finite number will do.
    float base = largest == NEGATIVE_INFINITY ? 0.0f : largest;
    float factor = exp2_fast(softmax.largest - base);
    softmax.sum *= factor;
#pragma unroll
    for (u32 i = 0; i < KEYS / PARTS; i++) {
        // The sum is of probabilities as they will be multiplied.
        u16 probability = float_to_bf16(exp2_fast(score[i] - base));
        softmax.sum += bf16_to_float(probability);
        probabilities[query * PROBABILITY_STRIDE + part * (KEYS / PARTS) + i] = probability;
    }
    softmax.largest = largest;
    if (part == 0) shrink[query] = factor;
}

// Which of a piece's eight keys are in [first, end), as a mask: what lies elsewhere may be NaN, and NaN times 0 is NaN.
DEVICE Piece seen_keys(u32 key, u32 first, u32 end) {
    Piece mask;
#pragma unroll
    for (u32 pair = 0; pair < 4; pair++) {
        u32 low = key + 2 * pair >= first && key + 2 * pair < end ? 0xffffu : 0;
        u32 high = key + 2 * pair + 1 >= first && key + 2 * pair + 1 < end ? 0xffff0000u : 0;
        mask.pair[pair] = low | high;
    }
    return mask;
}

// A piece's row among the elements of a head. Large heads leave no registers to keep all tiles' addresses.
DEVICE u32 value_row(u32 piece) { return HEAD_DIM > 128 ? fresh(piece_row(piece)) : piece_row(piece); }

// sums [HEAD_DIM x 16 queries] = sums * shrink + values . probabilities of 32 keys.
DEVICE void add_values(const AttentionParams& p, const Tile& tile, Acc sums[VALUE_TILES], u32 first_key, const u16* probabilities,
                       const float* shrink) {
    Operand weight, seen;
    u64 start[PIECES];
#pragma unroll
    for (u32 i = 0; i < PIECES; i++) {
        weight.piece[i] = *(const Piece*)(probabilities + piece_row(i) * PROBABILITY_STRIDE + piece_k(i));
        u32 key = lesser(first_key + piece_k(i), (tile.end_key - 1) / 8 * 8);
        start[i] = cache_base(p, tile, key) + key % p.block_size;
        seen.piece[i] = seen_keys(first_key + piece_k(i), tile.first_key, tile.end_key);
    }
#pragma unroll
    for (u32 t = 0; t < VALUE_TILES; t++) {
        Operand value[TERMS];
#pragma unroll
        for (u32 i = 0; i < PIECES; i++) {
            Piece terms[3];
            split<CACHE_TYPE>(load_raw<CACHE_TYPE>(p.values, start[i] + (u64)(t * 16 + value_row(i)) * p.block_size), terms);
#pragma unroll
            for (u32 term = 0; term < TERMS; term++) {
#pragma unroll
                for (u32 pair = 0; pair < 4; pair++) value[term].piece[i].pair[pair] = terms[term].pair[pair] & seen.piece[i].pair[pair];
            }
        }
#pragma unroll
        for (u32 i = 0; i < ACC_VALUES; i++) sums[t].value[i] *= shrink[acc_column(i)];
#pragma unroll
        for (u32 term = 0; term < TERMS; term++) multiply(sums[t], value[TERMS - 1 - term], weight);
        keep_order();
    }
}

// What the waves of a block share.
struct Shared {
    float scores[WAVES][16 * SCORE_STRIDE];
    alignas(16) u16 probabilities[WAVES][16 * PROBABILITY_STRIDE];
    float shrink[WAVES][16];
    float largest[WAVES][16];
    float sum[WAVES][16];
    // Queries until the context has been read, then outputs.
    union {
        alignas(16) u16 queries[16 * QUERY_STRIDE];
        float output[16][HEAD_DIM + 1];
    };
};

DEVICE void store_result(const AttentionParams& p, const Tile& tile, const Shared& shared) {
    for (u32 index = thread_index(); index < 16 * HEAD_DIM; index += THREADS) {
        u32 query = index / HEAD_DIM, element = index % HEAD_DIM;
        if (query >= tile.heads * tile.tokens) continue;
        u64 row = query_row(tile, query);
        u32 head = query_head(tile, query);
        float largest = NEGATIVE_INFINITY, sum = 0.0f;
#pragma unroll
        for (u32 wave = 0; wave < WAVES; wave++) largest = larger(largest, shared.largest[wave][query]);
        float base = largest == NEGATIVE_INFINITY ? 0.0f : largest;
#pragma unroll
        for (u32 wave = 0; wave < WAVES; wave++) sum += shared.sum[wave][query] * exp2_fast(shared.largest[wave][query] - base);
        float value = shared.output[query][element] * p.value_scale;
        if (p.splits == 1) {
            store_activation(p.output, row * p.output_stride + head * HEAD_DIM + element, p.type, value / sum);
        } else {
            float* partial = p.partial + ((block_z() * (u64)p.rows + row) * p.query_heads + head) * (HEAD_DIM + 2);
            partial[2 + element] = value;
            if (element == 0) {
                partial[0] = largest;
                partial[1] = sum;
            }
        }
    }
}

// Grid: rows, KV heads (times parts of 16 of their query heads), splits.
KERNEL(attention, THREADS, AttentionParams) {
    SHARED Shared shared;
    Tile tile;
    if (!find_tile(p, tile)) return;
    u32 wave = wave_index();
    if (p.type == TYPE_F32) load_queries<TYPE_F32>(p, tile, shared.queries);
    else load_queries<TYPE_BF16>(p, tile, shared.queries);
    block_sync();
    Acc sums[VALUE_TILES];
#pragma unroll
    for (u32 t = 0; t < VALUE_TILES; t++) sums[t] = zero_acc();
    Softmax softmax = {NEGATIVE_INFINITY, 0.0f};
    // Steps of 32 keys from an aligned one on, dealt to splits in runs and to waves in turn.
    u32 first_step = tile.first_key / KEYS, steps = (tile.end_key + KEYS - 1) / KEYS - first_step;
    u32 each = (steps + p.splits - 1) / p.splits;
    u32 begin = lesser(block_z() * each, steps), end = lesser(begin + each, steps);
    for (u32 step = begin + wave; step < end; step += WAVES) {
        u32 first_key = (first_step + step) * KEYS;
        score_keys(p, tile, shared.queries, first_key, shared.scores[wave]);
        wave_sync();
        weigh_keys(p, tile, softmax, first_key, shared.scores[wave], shared.probabilities[wave], shared.shrink[wave]);
        wave_sync();
        add_values(p, tile, sums, first_key, shared.probabilities[wave], shared.shrink[wave]);
        wave_sync();
    }
#pragma unroll
    for (u32 mask = 16; mask < WAVE; mask *= 2) softmax.sum += bits_of<float>(shuffle_xor(bits_of<u32>(softmax.sum), mask));
    if (lane_index() < 16) {
        shared.largest[wave][lane_index()] = softmax.largest;
        shared.sum[wave][lane_index()] = softmax.sum;
    }
    block_sync();
    for (u32 turn = 0; turn < WAVES; turn++) {
        if (turn == wave) {
#pragma unroll
            for (u32 i = 0; i < ACC_VALUES; i++) {
                u32 column = acc_column(i);
                float largest = NEGATIVE_INFINITY;
#pragma unroll
                for (u32 other = 0; other < WAVES; other++) largest = larger(largest, shared.largest[other][column]);
                float factor = exp2_fast(shared.largest[wave][column] - (largest == NEGATIVE_INFINITY ? 0.0f : largest));
#pragma unroll
                for (u32 t = 0; t < VALUE_TILES; t++) {
                    float* output = &shared.output[column][t * 16 + acc_row(i)];
                    *output = sums[t].value[i] * factor + (turn == 0 ? 0.0f : *output);
                }
            }
        }
        block_sync();
    }
    store_result(p, tile, shared);
}

// Adds up the splits. Grid: rows, query heads.
KERNEL(attention_combine, THREADS, AttentionParams) {
    u32 element = thread_index();
    if (element >= HEAD_DIM) return;
    u64 row = block_x(), head = block_y();
    const float* partial = p.partial + (row * p.query_heads + head) * (HEAD_DIM + 2);
    u64 stride = (u64)p.rows * p.query_heads * (HEAD_DIM + 2);
    float largest = NEGATIVE_INFINITY, sum = 0.0f, value = 0.0f;
    for (u32 part = 0; part < p.splits; part++) largest = larger(largest, partial[part * stride]);
    for (u32 part = 0; part < p.splits; part++) {
        float factor = exp2_fast(partial[part * stride] - largest);
        sum += partial[part * stride + 1] * factor;
        value += partial[part * stride + 2 + element] * factor;
    }
    store_activation(p.output, row * p.output_stride + head * HEAD_DIM + element, p.type, value / sum);
}
