//! Names that come from outside and become parts of paths: each is of a known alphabet, or refused.

/// Digits of a commit.
const COMMIT_DIGITS: usize = 40;
/// The longest name of a blob; the Hub's own have 40 or 64 digits.
const BLOB_NAME_MAX: usize = 128;

/// Whether a text is a whole commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text can be the name of a branch or a tag, by Git's rules, or a commit.
pub(super) fn is_revision(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_graphic() && !b"~^:?*[\\%#\"<>|".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.');
    text.len() <= 255 && text.bytes().all(is_letter) && !text.contains("..") && text.split('/').all(is_part)
}

/// The name of the blob that an `ETag` tells, `W/"name"` or `"name"`.
pub(super) fn blob_name(etag: &str) -> Option<&str> {
    let name = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    ((1..=BLOB_NAME_MAX).contains(&name.len()) && name.bytes().all(is_letter)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        assert_eq!(blob_name("W/\"abc-1\""), Some("abc-1"));
        for etag in ["\"../../../x\"", "/etc/passwd", "\"\"", "a.b", "a\\b", "a\0", &"a".repeat(129)] {
            assert_eq!(blob_name(etag), None, "{etag}");
        }
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(is_commit(commit) && is_revision(commit));
        for text in ["c0ffee", "../", &commit.to_uppercase(), &commit.replace('0', "/")] {
            assert!(!is_commit(text), "{text}");
        }
        for text in ["main", "refs/pr/1", "v1.0", "feature/x"] {
            assert!(is_revision(text), "{text}");
        }
        for text in ["", "..", "a/../b", "/etc", "a/", "a b", "-x", "a//b", ".git", "a%2Fb"] {
            assert!(!is_revision(text), "{text}");
        }
    }
}
