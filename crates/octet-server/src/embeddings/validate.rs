//! Checks of `/v1/embeddings`.

use super::types::{EmbeddingFields, EncodingFormat};
use crate::error::ApiError;
use crate::model::EmbeddingModel;
use crate::parameters::{self, ParameterFields, Parameters, Rules};
use crate::prompts::Prompts;

/// What becomes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorOptions {
    pub(crate) encoding: EncodingFormat,
    /// How many of its elements are wanted, from the first.
    pub(crate) size: usize,
    /// Make its length 1.
    pub(crate) normalize: bool,
}

impl VectorOptions {
    /// Cuts first, as Matryoshka embeddings want it, and normalizes then.
    pub(crate) fn finish(self, mut vector: Vec<f32>) -> Vec<f32> {
        vector.truncate(self.size);
        if self.normalize {
            let squares: f64 = vector.iter().map(|number| f64::from(*number).powi(2)).sum();
            let factor = if squares > 0.0 { squares.sqrt().recip() } else { 0.0 };
            vector.iter_mut().for_each(|number| *number = (f64::from(*number) * factor) as f32);
        }
        vector
    }
}

/// Checks the fields: the inputs, what becomes of their vectors, and what is shared with other endpoints.
pub(crate) fn validate(
    fields: EmbeddingFields,
    rules: &Rules<'_>,
    model: &EmbeddingModel,
) -> Result<(Prompts, VectorOptions, Parameters), ApiError> {
    refuse_unsupported(&fields)?;
    let shared = ParameterFields {
        truncate_prompt_tokens: fields.truncate_prompt_tokens,
        truncation_side: fields.truncation_side,
        add_special_tokens: fields.add_special_tokens,
        priority: fields.priority,
        request_id: fields.request_id,
        cache_salt: fields.cache_salt,
        ..ParameterFields::default()
    };
    let parameters = parameters::validate(&shared, rules)?;
    let longest = if parameters.truncation.is_some() { usize::MAX } else { rules.max_model_len };
    let inputs = Prompts::check("input", fields.input, longest, rules)?;
    let encoding = match fields.encoding_format.as_deref() {
        None | Some("float") => EncodingFormat::Float,
        Some("base64") => EncodingFormat::Base64,
        Some(other) => {
            let message = format!("encoding_format is {other:?}, expected \"float\" or \"base64\"");
            return Err(ApiError::invalid("encoding_format", message));
        }
    };
    let size = fields.dimensions.map_or(Ok(model.size), |size| dimensions(size.0, model))?;
    let normalize = fields.use_activation.map_or(model.normalize, |flag| flag.0);
    Ok((inputs, VectorOptions { encoding, size, normalize }, parameters))
}

fn refuse_unsupported(fields: &EmbeddingFields) -> Result<(), ApiError> {
    if fields.normalize.is_some() {
        let remedy = "it is called use_activation, as in vLLM";
        return Err(ApiError::Unsupported { field: "normalize", remedy });
    }
    if fields.messages.is_some() {
        let remedy = "send the text as input";
        return Err(ApiError::Unsupported { field: "messages", remedy });
    }
    let only = |field, value: &Option<String>, allowed: &[&str], remedy| match value.as_deref() {
        Some(value) if !allowed.contains(&value) => Err(ApiError::Unsupported { field, remedy }),
        _ => Ok(()),
    };
    only("embed_dtype", &fields.embed_dtype, &["float32"], "vectors are sent in float32")?;
    let native = if cfg!(target_endian = "little") { "native" } else { "little" };
    only("endianness", &fields.endianness, &["little", native], "vectors are sent little-endian")?;
    only("padding", &fields.padding, &["do_not_pad"], "inputs are never padded")
}

/// How many elements are wanted: models must say that the beginning of their vectors is one too.
fn dimensions(asked: i64, model: &EmbeddingModel) -> Result<usize, ApiError> {
    let refuse = |message: String| Err(ApiError::invalid("dimensions", message));
    let Some(allowed) = &model.matryoshka else {
        return refuse(format!(
            "dimensions is {asked}, and the model does not say that its vectors can be cut: leave it out, or start the \
             server with --hf-overrides '{{\"is_matryoshka\": true}}'"
        ));
    };
    match usize::try_from(asked) {
        Ok(size) if (1..=model.size).contains(&size) && (allowed.is_empty() || allowed.contains(&size)) => {
            Ok(size)
        }
        _ if allowed.is_empty() => {
            refuse(format!("dimensions is {asked}, expected a number from 1 to {}", model.size))
        }
        _ => refuse(format!("dimensions is {asked}, expected one of {allowed:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_cut_before_they_are_normalized() {
        let options = VectorOptions { encoding: EncodingFormat::Float, size: 2, normalize: true };
        assert_eq!(options.finish(vec![3.0, -4.0, 100.0]), [0.6, -0.8]);
        assert_eq!(options.finish(vec![0.0, 0.0, 1.0]), [0.0, 0.0]);
        let plain = VectorOptions { normalize: false, ..options };
        assert_eq!(plain.finish(vec![3.0, -4.0, 100.0]), [3.0, -4.0]);
    }
}
