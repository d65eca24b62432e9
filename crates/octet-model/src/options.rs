//! What the user chooses about loading.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use octet_backend::DataType;
use octet_float8::Float8Format;

use crate::ModelError;
use crate::checkpoint::hub::HubModel;
use crate::memory::MaxModelLen;
use crate::quantization::OnlineQuantization;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with `config.json` and safetensors files.
    Folder(PathBuf),
    /// A model of the Hub; what is in the local cache is not fetched again.
    Hub(HubModel),
    /// A `config.json` by whatever name, without weights: they are random.
    Config(PathBuf),
    /// A shape that ships with the program, see [`crate::shapes`]; its weights are random.
    Shape(String),
}

impl ModelSource {
    /// What a user means by one word: a folder or file if there is one, else a shape's name, else an id of the Hub. A
    /// file called `config.json` stands for its folder.
    ///
    /// # Errors
    /// None of the three.
    pub fn of_word(word: &str) -> Result<Self, ModelError> {
        let folder = PathBuf::from(word);
        if folder.is_dir() {
            return Ok(Self::Folder(folder));
        }
        if folder.is_file() && folder.extension().is_some_and(|extension| extension == "json") {
            return Ok(match folder.parent() {
                Some(parent) if folder.ends_with("config.json") => Self::Folder(parent.join("")),
                _ => Self::Config(folder),
            });
        }
        if crate::shapes::text(word).is_some() {
            return Ok(Self::Shape(word.to_owned()));
        }
        let id_parts: Vec<_> = word.split('/').collect();
        let is_id = |part: &&str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.'))
        };
        if id_parts.len() == 2 && id_parts.iter().all(is_id) {
            return Ok(Self::Hub(HubModel { id: word.to_owned(), revision: None }));
        }
        Err(ModelError::Unsupported {
            what: "the model",
            found: word.to_owned(),
            supported: format!(
                "a folder that exists, an id of the Hub such as Qwen/Qwen3-0.6B, one of {}",
                crate::shapes::names().join(", ")
            ),
        })
    }
}

/// `--dtype`: element type of weights that are not quantised.
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
                DataType::BF16 | DataType::F32 | DataType::F8(_) => DataType::BF16,
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
    /// The checkpoint's safetensors files; random weights for a config or a shape, which has no others.
    #[default]
    Auto,
    /// The checkpoint's safetensors files.
    Safetensors,
    /// Random weights from N(0, 0.02), drawn from [`LoadOptions::seed`]; only `config.json` is needed.
    Dummy,
}

impl FromStr for LoadFormat {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "auto" => Ok(Self::Auto),
            "safetensors" => Ok(Self::Safetensors),
            "dummy" => Ok(Self::Dummy),
            _ => Err(ModelError::Unsupported {
                what: "--load-format",
                found: name.to_owned(),
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
    /// Element type of weights that are not quantised.
    pub weight_type: WeightType,
    /// Quantise a 16-bit checkpoint while loading.
    pub quantization: Option<OnlineQuantization>,
    /// Quantise the head too. A tied embedding then keeps its 16-bit table for look-up.
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
    fn a_word_is_a_folder_a_shape_or_an_id() {
        assert_eq!(ModelSource::of_word(".").unwrap(), ModelSource::Folder(".".into()));
        assert_eq!(ModelSource::of_word("qwen3-0.6b").unwrap(), ModelSource::Shape("qwen3-0.6b".to_owned()));
        let id = HubModel { id: "Qwen/Qwen3-0.6B".to_owned(), revision: None };
        assert_eq!(ModelSource::of_word("Qwen/Qwen3-0.6B").unwrap(), ModelSource::Hub(id));
        for wrong in ["no-such-folder", "./a/b/c", "../model", "a/b c"] {
            assert!(ModelSource::of_word(wrong).is_err(), "{wrong}");
        }
    }

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
}
