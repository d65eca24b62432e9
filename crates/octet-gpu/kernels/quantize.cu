// Rows in E4M3 with a scale each, as the inputs of FP8 products: of a norm, of a gate, and of any activation.
//
// value = code * scale. The scale of a row is the checkpoint's, or max(largest magnitude / limit, 1 / (limit * 512)) as in
// vLLM, with true divisions. The limit is 448; FNUZ reads a code as half, so there it is 224 and scales are double: the same
// codes on every device. NaN stays NaN. Codes behind the last column are 0.

#if FNUZ
#define LIMIT 224.0f
#define NOT_A_NUMBER 0x80u
#else
#define LIMIT 448.0f
#define NOT_A_NUMBER 0x7fu
#endif

struct QuantizeTarget {
    u32* codes; // [rows, stride] bytes
    float* scales; // [rows]
    u32 stride; // a multiple of 128
    float scale; // of all rows, or 0: each row's own
};

DEVICE u32 code_of(float value, float scale) {
    float scaled = value / scale;
    u32 code = float_to_float8<TYPE_E4M3>(larger(-LIMIT, smaller(scaled, LIMIT)));
    return scaled != scaled ? NOT_A_NUMBER : code;
}

// Quantizes one row, whose elements `row.four(column)` gives. One block a row.
template <class Row> DEVICE void quantize(const QuantizeTarget& target, const Row& row, float* scratch) {
    float scale = target.scale;
    if (scale == 0.0f) {
        float largest = 0.0f;
        for (u32 column = thread_index() * 4; column < target.stride; column += THREADS * 4) {
            Four four = row.four(column);
#pragma unroll
            for (u32 i = 0; i < 4; i++) largest = larger(largest, magnitude(four.value[i]));
        }
        scale = larger(block_largest(largest, scratch) / LIMIT, 1.0f / (LIMIT * 512.0f));
    }
    if (thread_index() == 0) target.scales[block_x()] = scale;
    u32* codes = target.codes + (u64)block_x() * (target.stride / 4);
    for (u32 column = thread_index() * 4; column < target.stride; column += THREADS * 4) {
        Four four = row.four(column);
        u32 word = 0;
#pragma unroll
        for (u32 i = 0; i < 4; i++) word |= code_of(four.value[i], scale) << (8 * i);
        codes[column / 4] = word;
    }
}

struct QuantizeParams {
    const void* input;
    QuantizeTarget target;
    u32 type, stride;
};

struct PlainRow {
    const void* input;
    u64 start;
    u32 type, stride;
    DEVICE_MEMBER Four four(u32 column) const {
        if (column >= stride) return {{0.0f, 0.0f, 0.0f, 0.0f}};
        return load_four(input, start + column, type);
    }
};

// Rows as they are.
KERNEL(quantize_rows, THREADS, QuantizeParams) {
    SHARED float scratch[WAVES];
    PlainRow row = {p.input, (u64)block_x() * p.stride, p.type, p.stride};
    quantize(p.target, row, scratch);
}

struct NormFloat8Params {
    const void* input;
    const float* weight;
    QuantizeTarget target;
    u32 input_type;
    u32 stride;
    float inverse_columns, epsilon;
};

struct NormedRow {
    const void* input;
    const float* weight;
    u64 start;
    u32 type, stride;
    float factor;
    DEVICE_MEMBER Four four(u32 column) const {
        if (column >= stride) return {{0.0f, 0.0f, 0.0f, 0.0f}};
        Four values = load_four(input, start + column, type), weights = load_four(weight, column, TYPE_F32);
#pragma unroll
        for (u32 i = 0; i < 4; i++) values.value[i] = values.value[i] * factor * weights.value[i];
        return values;
    }
};

// As `rms_norm` in rows.cu.
KERNEL(rms_norm_float8, THREADS, NormFloat8Params) {
    SHARED float scratch[2][WAVES];
    u64 start = (u64)block_x() * p.stride;
    float squares = 0.0f;
    for (u32 column = thread_index() * 4; column < p.stride; column += THREADS * 4) {
        Four four = load_four(p.input, start + column, p.input_type);
#pragma unroll
        for (u32 i = 0; i < 4; i++) squares = multiply_add(four.value[i], four.value[i], squares);
    }
    float factor = reciprocal_root(block_sum(squares, scratch[0]) * p.inverse_columns + p.epsilon);
    NormedRow row = {p.input, p.weight, start, p.input_type, p.stride, factor};
    quantize(p.target, row, scratch[1]);
}

struct JoinFloat8Params {
    JoinOperands join;
    const float* weight;
    QuantizeTarget target;
    float epsilon;
};

// As `join` in rows.cu.
KERNEL(join_float8, THREADS, JoinFloat8Params) {
    SHARED float scratch[3][WAVES];
    const JoinOperands& operands = p.join;
    u64 start = (u64)block_x() * operands.stride;
    float squares = join_row(operands, start, scratch[0]);
    float factor = reciprocal_root(block_sum(squares, scratch[1]) * operands.inverse_columns + p.epsilon);
    NormedRow row = {operands.residual, p.weight, start, operands.residual_type, operands.stride, factor};
    quantize(p.target, row, scratch[2]);
}

struct GateFloat8Params {
    const void* products; // [rows, gate then up]
    QuantizeTarget target;
    u32 type, features, stride;
    u32 activation;
};

struct GatedRow {
    const void* products;
    u64 start;
    u32 type, features, activation;
    DEVICE_MEMBER Four four(u32 column) const {
        Four values;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            values.value[i] = 0.0f;
            if (column + i >= features) continue;
            float gate = load_activation(products, start + column + i, type);
            float up = load_activation(products, start + features + column + i, type);
            values.value[i] = activate(gate, activation) * up;
        }
        return values;
    }
};

// As `gate` in rows.cu.
KERNEL(gate_float8, THREADS, GateFloat8Params) {
    SHARED float scratch[WAVES];
    GatedRow row = {p.products, (u64)block_x() * p.stride, p.type, p.features, p.activation};
    quantize(p.target, row, scratch);
}
