//! A whole checkpoint: config.json, a byte 0, and the file of weights with its header.

use octet_model::{
    KvCacheChoice, LoadFormat, LoadOptions, LoadedModel, MaxModelLen, ModelSource, WeightType,
};
use octet_reference::ReferenceBackend;

use crate::folder::Folder;
use crate::halves;

/// Takes a checkpoint as it is.
const AS_STORED: LoadOptions = LoadOptions {
    weight_type: WeightType::Auto,
    quantization: None,
    quantize_head: false,
    load_format: LoadFormat::Safetensors,
    kv_cache_type: KvCacheChoice::Auto,
    max_model_len: MaxModelLen::Model,
    seed: 0,
};

thread_local! {
    static FOLDER: Folder = Folder::new();
}

pub(crate) fn run(bytes: &[u8]) -> bool {
    let (config, weights) = halves(bytes);
    FOLDER.with(|folder| {
        folder.write("config.json", config);
        folder.write("model.safetensors", weights);
        let source = ModelSource::Folder(folder.path().to_owned());
        LoadedModel::load(ReferenceBackend::new(), &source, &AS_STORED, &mut |_| {}).is_ok()
    })
}
