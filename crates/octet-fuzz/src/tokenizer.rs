//! tokenizer.json, a byte 0, and tokenizer_config.json; then text through what they describe, and back.

use octet_text::Tokenizer;

use crate::folder::Folder;
use crate::halves;

/// Letters, digits, spaces, a combining mark, an emoji of several code points, a special token's spelling.
const TEXT: &str = "Hello  world 123\n\u{65}\u{301} 日本 👩‍🔬 <s></s>\t\u{0}x";

thread_local! {
    static FOLDER: Folder = Folder::new();
}

pub(crate) fn run(bytes: &[u8]) -> bool {
    let (tokenizer, config) = halves(bytes);
    FOLDER.with(|folder| {
        folder.write("tokenizer.json", tokenizer);
        folder.write("tokenizer_config.json", config);
        let Ok(tokenizer) = Tokenizer::load(folder.path()) else { return false };
        let mut is_taken = false;
        for with_special_tokens in [true, false] {
            let Ok(ids) = tokenizer.encode(TEXT, with_special_tokens) else { continue };
            // An id that the decoder does not take is an error, not a panic.
            is_taken |= tokenizer.decode(&ids, with_special_tokens).is_ok();
            for &id in ids.iter().take(8) {
                let _ = (tokenizer.token_bytes(id), tokenizer.token_text(id), tokenizer.is_special(id));
            }
        }
        let _ = tokenizer.decode(&[0, 1, 2, u32::MAX], false);
        is_taken
    })
}
