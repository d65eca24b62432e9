// Operations on rows: the norm, the gate's activation, looking rows up and moving them.
//
// Rows are padded to `stride` elements, and what lies behind the last column is always 0: sums and products may run
// over it, so that all loads are of four elements.

struct NormParams {
    const void* input;
    const float* weight;
    void* output;
    u32 input_type, output_type;
    u32 stride;
    float inverse_columns, epsilon;
};

// The row that `factor` normalises, into the output.
DEVICE void store_normed(const void* input, u32 input_type, const float* weight, float factor, void* output, u32 output_type, u64 row, u32 stride) {
    for (u32 column = thread_index() * 4; column < stride; column += THREADS * 4) {
        Four values = load_four(input, row + column, input_type), weights = load_four(weight, column, TYPE_F32);
#pragma unroll
        for (u32 i = 0; i < 4; i++) values.value[i] = values.value[i] * factor * weights.value[i];
        store_four(output, row + column, output_type, values);
    }
}

// output = input / sqrt(mean of squares + epsilon) * weight. One block a row.
KERNEL(rms_norm, THREADS, NormParams) {
    SHARED float scratch[WAVES];
    u64 row = (u64)block_x() * p.stride;
    float squares = 0.0f;
    for (u32 column = thread_index() * 4; column < p.stride; column += THREADS * 4) {
        Four four = load_four(p.input, row + column, p.input_type);
#pragma unroll
        for (u32 i = 0; i < 4; i++) squares = multiply_add(four.value[i], four.value[i], squares);
    }
    float factor = reciprocal_root(block_sum(squares, scratch) * p.inverse_columns + p.epsilon);
    store_normed(p.input, p.input_type, p.weight, factor, p.output, p.output_type, row, p.stride);
}

struct JoinParams {
    JoinOperands join;
    const float* weight; // of the next norm, or null
    void* output;
    u32 output_type;
    float epsilon;
};

// residual += scale * post_norm(branch); output = norm(residual). One block a row.
KERNEL(join, THREADS, JoinParams) {
    SHARED float scratch[2][WAVES];
    const JoinOperands& operands = p.join;
    u64 row = (u64)block_x() * operands.stride;
    float squares = join_row(operands, row, scratch[0]);
    if (!p.weight) return;
    float factor = reciprocal_root(block_sum(squares, scratch[1]) * operands.inverse_columns + p.epsilon);
    store_normed(operands.residual, operands.residual_type, p.weight, factor, p.output, p.output_type, row, operands.stride);
}

struct GateParams {
    const void* products; // [rows, gate then up]
    void* output;
    u32 products_type, output_type;
    u32 features, products_stride, output_stride;
    u32 activation;
};

// output = activation(gate) * up, and 0 behind the last column: the row may have held other numbers in 8 bits.
// Grid: output_stride / THREADS, rows.
KERNEL(gate, THREADS, GateParams) {
    u32 column = block_x() * THREADS + thread_index();
    if (column >= p.output_stride) return;
    u64 row = (u64)block_y() * p.products_stride;
    if (column >= p.features) {
        store_activation(p.output, (u64)block_y() * p.output_stride + column, p.output_type, 0.0f);
        return;
    }
    float gate = load_activation(p.products, row + column, p.products_type);
    float up = load_activation(p.products, row + p.features + column, p.products_type);
    store_activation(p.output, (u64)block_y() * p.output_stride + column, p.output_type, activate(gate, p.activation) * up);
}

struct EmbedParams {
    const void* table;
    const float* scales; // [vocabulary, groups], or null
    const u32* tokens;
    void* output;
    u32 table_type, output_type;
    u32 columns, table_stride, output_stride;
    u32 groups, group_columns;
    float scale;
};

// output [rows, columns] = scale * table[tokens]. Grid: columns / THREADS, rows.
KERNEL(embed, THREADS, EmbedParams) {
    u32 column = block_x() * THREADS + thread_index();
    if (column >= p.columns) return;
    u64 token = p.tokens[block_y()];
    u64 index = token * p.table_stride + column;
    float value;
    switch (p.table_type) {
    case TYPE_F32: value = load_element<TYPE_F32>(p.table, index); break;
    case TYPE_F16: value = load_element<TYPE_F16>(p.table, index); break;
    case TYPE_BF16: value = load_element<TYPE_BF16>(p.table, index); break;
    case TYPE_E4M3: value = load_element<TYPE_E4M3>(p.table, index); break;
    default: value = load_element<TYPE_E5M2>(p.table, index); break;
    }
    if (p.scales) value *= p.scales[token * p.groups + column / p.group_columns];
    store_activation(p.output, (u64)block_y() * p.output_stride + column, p.output_type, value * p.scale);
}

struct FinishParams {
    float* logits;
    u32 columns, stride;
    float scale, cap; // the cap is 0 if there is none
};

// logits = cap * tanh(scale * logits / cap), or without the cap. Grid: columns / THREADS, rows.
KERNEL(finish_logits, THREADS, FinishParams) {
    u32 column = block_x() * THREADS + thread_index();
    if (column >= p.columns) return;
    float* logit = p.logits + (u64)block_y() * p.stride + column;
    float value = *logit * p.scale;
    *logit = p.cap > 0.0f ? p.cap * hyperbolic_tangent(value / p.cap) : value;
}

struct GatherParams {
    const void* input;
    const u32* rows;
    void* output;
    u32 type, stride;
};

// output[i] = input[rows[i]]. One block a row.
KERNEL(gather_rows, THREADS, GatherParams) {
    u64 from = (u64)p.rows[block_x()] * p.stride, to = (u64)block_x() * p.stride;
    for (u32 column = thread_index() * 4; column < p.stride; column += THREADS * 4)
        store_four(p.output, to + column, p.type, load_four(p.input, from + column, p.type));
}
