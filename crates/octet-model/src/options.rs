//! What the user chooses about loading.

use std::fmt;
use std::str::FromStr;

use octet_backend::DataType;
use octet_float8::Float8Format;

use crate::ModelError;
use crate::memory::MaxModelLen;
use crate::quantization::OnlineQuantization;

/// `--dtype`: element type of weights that are not quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// As stored; `float32` becomes `bfloat16`, because vLLM too serves such checkpoints in 16 bits.
    #[default]
    Auto,
    /// IEEE binary16.
    Float16,
    /// bfloat16.
    BFloat16,
    /// IEEE binary32.
    Float32,
}

impl WeightType {
    /// The element type for a checkpoint stored as `stored`.
    #[must_use]
    pub const fn resolve(self, stored: DataType) -> DataType {
        match self {
            Self::Float16 => DataType::F16,
            Self::BFloat16 => DataType::BF16,
            Self::Float32 => DataType::F32,
            Self::Auto => match stored {
                DataType::F16 => DataType::F16,
                DataType::BF16 | DataType::F32 | DataType::F8(_) | DataType::I8 => DataType::BF16,
            },
        }
    }
}

impl FromStr for WeightType {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "auto" => Ok(Self::Auto),
            "float16" | "half" => Ok(Self::Float16),
            "bfloat16" => Ok(Self::BFloat16),
            "float32" | "float" => Ok(Self::Float32),
            _ => Err(ModelError::Unsupported {
                what: "--dtype",
                found: name.to_owned(),
                supported: "auto, bfloat16, float16, float32".to_owned(),
            }),
        }
    }
}

/// `--load-format`: where the weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// The checkpoint's safetensors files.
    #[default]
    Auto,
    /// The same, said aloud.
    Safetensors,
    /// Another of vLLM's ways to read the same weights, by its name; they are read in our own.
    OtherReader(&'static str),
    /// Random weights from N(0, 0.02), drawn from [`LoadOptions::seed`]; only `config.json` is needed.
    Dummy,
}

/// vLLM's other readers of what `safetensors` reads. `mistral` reads the same weights under Mistral's own names.
const OTHER_READERS: [&str; 5] = ["hf", "fastsafetensors", "instanttensor", "runai_streamer", "mistral"];

/// vLLM's readers of what is not read here, and what that is.
const REFUSED_READERS: [(&str, &str); 9] = [
    ("pt", "torch's pickles, which can run code when opened"),
    ("npcache", "torch's pickles, which can run code when opened"),
    ("tensorizer", "files of CoreWeave's tensorizer"),
    ("sharded_state", "vLLM's own shards for each rank"),
    ("runai_streamer_sharded", "vLLM's own shards for each rank"),
    ("bitsandbytes", "a quantization of its own; --quantization fp8 halves 16-bit weights"),
    ("gguf", "GGUF files"),
    ("ipc_cache", "the memory of another vLLM process"),
    ("modelexpress", "a service of NVIDIA's"),
];

impl FromStr for LoadFormat {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        if let Some(reader) = OTHER_READERS.into_iter().find(|it| *it == name) {
            return Ok(Self::OtherReader(reader));
        }
        let refused = REFUSED_READERS.iter().find(|(it, _)| *it == name);
        match name {
            "auto" => Ok(Self::Auto),
            "safetensors" => Ok(Self::Safetensors),
            "dummy" => Ok(Self::Dummy),
            _ => Err(ModelError::Unsupported {
                what: "--load-format",
                found: refused.map_or_else(|| name.to_owned(), |(_, reads)| format!("{name} ({reads})")),
                supported: "auto, safetensors, dummy".to_owned(),
            }),
        }
    }
}

/// `--kv-cache-dtype`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvCacheChoice {
    /// The weights' type, or FP8 if a compressed-tensors checkpoint has a `kv_cache_scheme`.
    #[default]
    Auto,
    /// E4M3, as `fp8_e4m3`.
    Fp8,
    /// E4M3 in the form that the device stores: OCP, or FNUZ on gfx94x.
    Fp8E4m3,
    /// E5M2; the checkpoint's scales do not apply to it.
    Fp8E5m2,
    /// IEEE binary16.
    Float16,
    /// bfloat16.
    BFloat16,
    /// IEEE binary32, for comparisons.
    Float32,
}

impl KvCacheChoice {
    const NAMES: [(&'static str, Self); 7] = [
        ("auto", Self::Auto),
        ("fp8", Self::Fp8),
        ("fp8_e4m3", Self::Fp8E4m3),
        ("fp8_e5m2", Self::Fp8E5m2),
        ("float16", Self::Float16),
        ("bfloat16", Self::BFloat16),
        ("float32", Self::Float32),
    ];

    /// The element type for a model in `model_type` on a device that can store `supported`.
    pub(crate) fn resolve(
        self,
        model_type: DataType,
        wants_float8: bool,
        supported: &[DataType],
    ) -> Result<DataType, ModelError> {
        let float8 = |format: Float8Format| {
            let (ocp, fnuz) = (DataType::F8(format), DataType::F8(format.to_fnuz()));
            if !supported.contains(&ocp) && supported.contains(&fnuz) { fnuz } else { ocp }
        };
        let asked = match self {
            Self::Auto if wants_float8 => float8(Float8Format::E4M3),
            Self::Auto => model_type,
            Self::Fp8 | Self::Fp8E4m3 => float8(Float8Format::E4M3),
            Self::Fp8E5m2 => float8(Float8Format::E5M2),
            Self::Float16 => DataType::F16,
            Self::BFloat16 => DataType::BF16,
            Self::Float32 => DataType::F32,
        };
        if supported.contains(&asked) {
            return Ok(asked);
        }
        let supported = supported.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(ModelError::KvCacheType { asked, supported })
    }
}

impl FromStr for KvCacheChoice {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|&(_, choice)| choice).ok_or_else(|| ModelError::Unsupported {
            what: "--kv-cache-dtype",
            found: name.to_owned(),
            supported: Self::NAMES.map(|(known, _)| known).join(", "),
        })
    }
}

impl fmt::Display for KvCacheChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, choice)| choice == self).map_or("", |(name, _)| name);
        formatter.write_str(name)
    }
}

/// All choices about loading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Element type of weights that are not quantized.
    pub weight_type: WeightType,
    /// Quantize a 16-bit checkpoint while loading.
    pub quantization: Option<OnlineQuantization>,
    /// Quantize the head too. A tied embedding then keeps its 16-bit table for look-up.
    pub quantize_head: bool,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// Element type of the KV cache.
    pub kv_cache_type: KvCacheChoice,
    /// The longest sequence.
    pub max_model_len: MaxModelLen,
    /// Seed of random weights; a checkpoint's are what they are.
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_takes_the_form_that_the_device_stores() {
        let (ocp, fnuz) = (DataType::F8(Float8Format::E4M3), DataType::F8(Float8Format::E4M3Fnuz));
        let resolve = |choice: KvCacheChoice, wants, supported: &[DataType]| {
            choice.resolve(DataType::BF16, wants, supported)
        };
        assert_eq!(resolve(KvCacheChoice::Fp8, false, &[DataType::BF16, ocp]).unwrap(), ocp);
        assert_eq!(resolve(KvCacheChoice::Fp8, false, &[DataType::BF16, fnuz]).unwrap(), fnuz);
        assert_eq!(resolve(KvCacheChoice::Auto, true, &[DataType::BF16, ocp]).unwrap(), ocp);
        assert_eq!(resolve(KvCacheChoice::Auto, false, &[DataType::BF16, ocp]).unwrap(), DataType::BF16);
        let error = resolve(KvCacheChoice::Fp8E5m2, false, &[DataType::BF16]).unwrap_err().to_string();
        assert!(error.contains("fp8_e5m2 is not supported by this device; supported: bfloat16"), "{error}");
        assert!("int8".parse::<KvCacheChoice>().unwrap_err().to_string().contains("fp8_e4m3"));
    }

    #[test]
    fn every_reader_of_vllm_is_taken_or_refused_with_its_reason() {
        for (name, format) in [("auto", LoadFormat::Auto), ("safetensors", LoadFormat::Safetensors)] {
            assert_eq!(name.parse::<LoadFormat>().unwrap(), format);
        }
        for name in OTHER_READERS {
            assert_eq!(name.parse::<LoadFormat>().unwrap(), LoadFormat::OtherReader(name));
        }
        for (name, reads) in REFUSED_READERS {
            let error = name.parse::<LoadFormat>().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reads), "{error}");
        }
        assert!("fast".parse::<LoadFormat>().unwrap_err().to_string().contains("supported: auto"));
    }
}
