//! The embedding: a look-up, so to the bit.

use octet_backend::{Backend, DataType, LinearUse, ScaleShape, TensorRole};
use octet_reference::ReferenceBackend;

use crate::compare::Found;
use crate::device::{begin_tokens, read, undefined};
use crate::host_weight::{HostLinear, HostWeight};
use crate::random::Random;
use crate::{Claims, WIDE_TYPES};

fn run<B: Backend>(backend: &mut B, table: &HostLinear, scale: f32, tokens: &[u32]) -> Vec<f32> {
    let linear = table.load(backend);
    let mut output = undefined(backend, TensorRole::Residual, tokens.len(), table.columns());
    begin_tokens(backend, tokens);
    backend.embed(&linear, scale, &mut output).expect("a look-up");
    read(backend, &output, tokens.len())
}

/// `embed` against the reference: tied and untied tables of every type, first and last token, odd widths, with and
/// without a factor.
///
/// # Panics
/// Where they disagree.
pub fn embed<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(7);
    let float8 = claims.float8_weights.iter();
    // A tied head can be kept in FP8, and then its table is.
    let narrow = float8.flat_map(|&format| {
        [ScaleShape::Tensor, ScaleShape::Channel, ScaleShape::Block { rows: 128, columns: 128 }]
            .map(|scale| (DataType::F8(format), scale))
    });
    let kinds: Vec<(DataType, ScaleShape)> =
        WIDE_TYPES.map(|data_type| (data_type, ScaleShape::None)).into_iter().chain(narrow).collect();
    for kind in kinds {
        for usage in [LinearUse::Embed, LinearUse::EmbedAndMultiply] {
            for (vocabulary, hidden) in [(131, 80), (16, 16), (77, 517), (300, 96)] {
                let part = HostWeight::random(&mut random, kind, vocabulary, hidden);
                let table = HostLinear::of(part, usage);
                let last = vocabulary as u32 - 1;
                let mut tokens: Vec<u32> =
                    (0..31).map(|_| (random.bits() % vocabulary as u64) as u32).collect();
                tokens.extend([0, last, last]);
                for scale in [1.0, 45.25] {
                    let expected = run(&mut ReferenceBackend::new(), &table, scale, &tokens);
                    let output = run(backend, &table, scale, &tokens);
                    let what = format!(
                        "embedding of [{vocabulary}, {hidden}] for {usage:?}, {kind:?}, times {scale}"
                    );
                    Found { what: &what, columns: hidden, values: &output }.is_exactly(&expected);
                }
            }
        }
    }
}
