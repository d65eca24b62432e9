// Linears: output [rows, features] = input [rows, k] . weight [features, k] transposed, in matrix units.
//
// WEIGHT_TYPE, INPUT_TYPE and GROUPED (whether scales are blocks) are set by the host, one compilation for each use. Weights are widened to bf16 in
// registers: FP8 exactly by one term, f16 by two, f32 by three. Rows of weights and inputs are padded with zeros to a
// multiple of 64 elements, so that no load along k needs a bound; rows beyond the last are clamped to it and not stored.
//
// Both TYPE_E4M3_PAIR: FP8 times FP8. Two neighbouring codes are one element of 16 bits, so that k, strides and tiles are
// counted in pairs and nothing but the instruction differs; the scales of the input's rows come at the end.
//
// Scales are [features, groups], a group of `group_columns` columns of k, a multiple of 32: one group is a scale a
// channel, more are blocks. Sums of a group are scaled when it ends.

struct LinearParams {
    const void* weight;
    const float* scales; // or null
    const float* bias; // or null
    const void* input;
    void* output;
    u32 rows, features, k; // k is padded
    u32 input_stride, output_stride, output_type;
    u32 groups, group_columns;
    const float* input_scales; // [rows] of inputs in FP8, or null
};

#define WEIGHT_TERMS terms_of(WEIGHT_TYPE)
#define INPUT_TERMS terms_of(INPUT_TYPE)

// The sum of products of terms, the smallest first, without those below the last place of the result.
DEVICE void multiply_terms(Acc& acc, const Operand weight[WEIGHT_TERMS], const Operand input[INPUT_TERMS]) {
#if INPUT_TYPE == TYPE_E4M3_PAIR
    multiply_pairs(acc, weight[0], input[0]);
#else
    constexpr int last = (int)(WEIGHT_TERMS > INPUT_TERMS ? WEIGHT_TERMS : INPUT_TERMS) - 1;
#pragma unroll
    for (int order = last; order >= 0; order--) {
#pragma unroll
        for (int term = 0; term <= order; term++) {
            if (term < (int)WEIGHT_TERMS && order - term < (int)INPUT_TERMS) multiply(acc, weight[term], input[order - term]);
        }
    }
#endif
}

DEVICE void add_scaled(Acc& total, Acc& part, const LinearParams& p, u32 first_feature, u32 group) {
#pragma unroll
    for (u32 i = 0; i < ACC_VALUES; i++) {
        u32 feature = lesser(first_feature + acc_row(i), p.features - 1);
        total.value[i] = multiply_add(part.value[i], p.scales[(u64)feature * p.groups + group], total.value[i]);
    }
    part = zero_acc();
}

DEVICE void store_output(const LinearParams& p, u32 row, u32 feature, float value) {
    if (row >= p.rows || feature >= p.features) return;
    if (p.input_scales) value *= p.input_scales[row];
    if (!GROUPED && p.scales) value *= p.scales[feature];
    if (p.bias) value += p.bias[feature];
    u64 index = (u64)row * p.output_stride + feature;
    store_activation(p.output, index, p.output_type, value);
}

// For up to 16 rows: what costs is reading the weights, so each is read once, from memory to registers, by whole
// cache lines. A block takes 16 features, its waves take turns along k, and their sums meet in shared memory.
// Grid: features / 16, rows / 16.
KERNEL(linear_skinny, THREADS, LinearParams) {
    SHARED float sums[WAVES][16][17];
    u32 first_feature = block_x() * 16, first_row = block_y() * 16;
    u64 weight_row[PIECES], input_row[PIECES];
#pragma unroll
    for (u32 i = 0; i < PIECES; i++) {
        weight_row[i] = (u64)lesser(first_feature + piece_row(i), p.features - 1) * p.k;
        input_row[i] = (u64)lesser(first_row + piece_row(i), p.rows - 1) * p.input_stride;
    }
    // Each lane reads 16 neighbouring elements of k, unless a group of scales ends within them.
    bool is_narrow = GROUPED && p.group_columns % 64 != 0;
    u32 spread = is_narrow ? 1 : 2, step = is_narrow ? 32 : 8;
    Acc total = zero_acc(), part = zero_acc();
    for (u32 k = wave_index() * 64; k < p.k; k += WAVES * 64) {
        Raw<WEIGHT_TYPE> weight[2][PIECES];
        Raw<INPUT_TYPE> input[2][PIECES];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
            for (u32 i = 0; i < PIECES; i++) {
                u32 at = k + piece_k(i) * spread + half * step;
                weight[half][i] = load_raw<WEIGHT_TYPE>(p.weight, weight_row[i] + at);
                input[half][i] = load_raw<INPUT_TYPE>(p.input, input_row[i] + at);
            }
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            Operand left[WEIGHT_TERMS], right[INPUT_TERMS];
#pragma unroll
            for (u32 i = 0; i < PIECES; i++) {
                Piece terms[3];
                split<WEIGHT_TYPE>(weight[half][i], terms);
#pragma unroll
                for (u32 term = 0; term < WEIGHT_TERMS; term++) left[term].piece[i] = terms[term];
                split<INPUT_TYPE>(input[half][i], terms);
#pragma unroll
                for (u32 term = 0; term < INPUT_TERMS; term++) right[term].piece[i] = terms[term];
            }
            multiply_terms(part, left, right);
            if (is_narrow) add_scaled(total, part, p, first_feature, lesser((k + half * 32) / p.group_columns, p.groups - 1));
        }
        if (GROUPED && !is_narrow) add_scaled(total, part, p, first_feature, lesser(k / p.group_columns, p.groups - 1));
    }
#pragma unroll
    for (u32 i = 0; i < ACC_VALUES; i++) sums[wave_index()][acc_row(i)][acc_column(i)] = GROUPED ? total.value[i] : part.value[i];
    block_sync();
    u32 feature = thread_index() % 16, row = thread_index() / 16;
    float sum = 0.0f;
#pragma unroll
    for (u32 wave = 0; wave < WAVES; wave++) sum += sums[wave][feature][row];
    store_output(p, first_row + row, first_feature + feature, sum);
}

// Tiles in shared memory, for more rows. Exact types need room for several terms and take smaller tiles.
#define TILE_K 32
#define TILE_STRIDE 40 // elements; 80 bytes, so that rows begin in different banks
#define TILE_FEATURES (WEIGHT_TERMS + INPUT_TERMS > 2 ? 64 : 128)
#define WAVES_ALONG_ROWS 2
#define WAVES_ALONG_FEATURES (WAVES / WAVES_ALONG_ROWS)

// TYPE's tile [ROWS x TILE_K]: from memory to registers, then from registers to shared memory.
template <u32 TYPE, u32 ROWS> struct TileLoader {
    static constexpr u32 COUNT = ROWS * (TILE_K / 8) / THREADS > 0 ? ROWS * (TILE_K / 8) / THREADS : 1;
    Raw<TYPE> raw[COUNT];

    DEVICE_MEMBER void load(const void* base, u32 first, u32 rows, u64 stride, u32 k) {
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            u32 piece = i * THREADS + thread_index();
            u64 row = lesser(first + lesser(piece / 4, ROWS - 1), rows - 1);
            raw[i] = load_raw<TYPE>(base, row * stride + k + piece % 4 * 8);
        }
    }

    DEVICE_MEMBER void store(u16* tile) {
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            u32 piece = i * THREADS + thread_index();
            Piece terms[3];
            split<TYPE>(raw[i], terms);
            if (piece / 4 >= ROWS) continue;
#pragma unroll
            for (u32 term = 0; term < terms_of(TYPE); term++)
                *(Piece*)(tile + ((u64)term * ROWS + piece / 4) * TILE_STRIDE + piece % 4 * 8) = terms[term];
        }
    }
};

template <u32 TERMS, u32 ROWS> DEVICE void read_operands(Operand operand[TERMS], const u16* tile, u32 row) {
#pragma unroll
    for (u32 term = 0; term < TERMS; term++) {
#pragma unroll
        for (u32 i = 0; i < PIECES; i++)
            operand[term].piece[i] = *(const Piece*)(tile + ((u64)term * ROWS + row + piece_row(i)) * TILE_STRIDE + piece_k(i));
    }
}

template <u32 TILE_ROWS> DEVICE void linear_tile(const LinearParams& p, u16* weights, u16* inputs) {
    constexpr u32 feature_tiles = TILE_FEATURES / 16 / WAVES_ALONG_FEATURES;
    constexpr u32 row_tiles = TILE_ROWS / 16 / WAVES_ALONG_ROWS;
    u32 first_feature = block_x() * TILE_FEATURES, first_row = block_y() * TILE_ROWS;
    u32 wave_feature = wave_index() / WAVES_ALONG_ROWS * feature_tiles * 16;
    u32 wave_row = wave_index() % WAVES_ALONG_ROWS * row_tiles * 16;
    Acc total[feature_tiles][row_tiles], part[feature_tiles][row_tiles];
#pragma unroll
    for (u32 f = 0; f < feature_tiles; f++)
#pragma unroll
        for (u32 r = 0; r < row_tiles; r++) total[f][r] = part[f][r] = zero_acc();
    TileLoader<WEIGHT_TYPE, TILE_FEATURES> weight_loader;
    TileLoader<INPUT_TYPE, TILE_ROWS> input_loader;
    weight_loader.load(p.weight, first_feature, p.features, p.k, 0);
    input_loader.load(p.input, first_row, p.rows, p.input_stride, 0);
    for (u32 k = 0; k < p.k; k += TILE_K) {
        weight_loader.store(weights);
        input_loader.store(inputs);
        block_sync();
        // The next tile is on its way while this one is multiplied.
        u32 next = k + TILE_K < p.k ? k + TILE_K : k;
        weight_loader.load(p.weight, first_feature, p.features, p.k, next);
        input_loader.load(p.input, first_row, p.rows, p.input_stride, next);
        Operand input[row_tiles][INPUT_TERMS];
#pragma unroll
        for (u32 r = 0; r < row_tiles; r++) read_operands<INPUT_TERMS, TILE_ROWS>(input[r], inputs, wave_row + 16 * r);
#pragma unroll
        for (u32 f = 0; f < feature_tiles; f++) {
            Operand weight[WEIGHT_TERMS];
            read_operands<WEIGHT_TERMS, TILE_FEATURES>(weight, weights, wave_feature + 16 * f);
#pragma unroll
            for (u32 r = 0; r < row_tiles; r++) multiply_terms(part[f][r], weight, input[r]);
        }
        if (GROUPED && ((k + TILE_K) % p.group_columns == 0 || k + TILE_K == p.k)) {
#pragma unroll
            for (u32 f = 0; f < feature_tiles; f++)
#pragma unroll
                for (u32 r = 0; r < row_tiles; r++)
                    add_scaled(total[f][r], part[f][r], p, first_feature + wave_feature + 16 * f, lesser(k / p.group_columns, p.groups - 1));
        }
        block_sync();
    }
#pragma unroll
    for (u32 f = 0; f < feature_tiles; f++)
#pragma unroll
        for (u32 r = 0; r < row_tiles; r++)
#pragma unroll
            for (u32 i = 0; i < ACC_VALUES; i++)
                store_output(p, first_row + wave_row + 16 * r + acc_column(i), first_feature + wave_feature + 16 * f + acc_row(i),
                             GROUPED ? total[f][r].value[i] : part[f][r].value[i]);
}

// Grid: features / TILE_FEATURES, rows / 32.
KERNEL(linear_tile_32, THREADS, LinearParams) {
    SHARED ALIGNED u16 weights[WEIGHT_TERMS * TILE_FEATURES * TILE_STRIDE];
    SHARED ALIGNED u16 inputs[INPUT_TERMS * 32 * TILE_STRIDE];
    linear_tile<32>(p, weights, inputs);
}

// Grid: features / TILE_FEATURES, rows / TILE_ROWS_LARGE.
#define TILE_ROWS_LARGE (WEIGHT_TERMS + INPUT_TERMS > 2 ? 64 : 128)
KERNEL(linear_tile_large, THREADS, LinearParams) {
    SHARED ALIGNED u16 weights[WEIGHT_TERMS * TILE_FEATURES * TILE_STRIDE];
    SHARED ALIGNED u16 inputs[INPUT_TERMS * TILE_ROWS_LARGE * TILE_STRIDE];
    linear_tile<TILE_ROWS_LARGE>(p, weights, inputs);
}
