//! The variables of `huggingface_hub`, with its meanings; an empty one is not set.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where models are, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// How long to wait for an answer or for more of it, unless a variable says otherwise: `huggingface_hub`'s seconds.
const WAIT: Duration = Duration::from_secs(10);

/// What the environment says.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    /// The folder of the cache.
    pub(super) cache: PathBuf,
    /// Nothing may be fetched.
    pub(super) is_offline: bool,
    /// Sent to the endpoint, and to nobody else.
    pub(super) token: Option<String>,
    /// The address of the Hub, without a slash at its end.
    pub(super) endpoint: String,
    /// The longest silence while a file is fetched.
    pub(super) download_wait: Duration,
    /// The longest wait for what is known of a file.
    pub(super) metadata_wait: Duration,
}

/// The environment's variables.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Environment {
    /// Reads the variables.
    ///
    /// # Errors
    /// One that cannot be what it should; the text names it.
    pub(super) fn read(variable: Variables<'_>) -> Result<Self, String> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |text: String| PathBuf::from(expanded(&text, variable));
        let home = set("HF_HOME").map(path).unwrap_or_else(|| {
            let caches = set("XDG_CACHE_HOME").unwrap_or_else(|| "~/.cache".to_owned());
            path(caches).join("huggingface")
        });
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let offline = set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE"));
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(format!("HF_ENDPOINT is {endpoint:?}, expected an address such as {ENDPOINT}"));
        }
        Ok(Self {
            cache: cache.map_or_else(|| home.join("hub"), path),
            is_offline: offline.is_some_and(|value| is_true(&value)),
            token: token(&set, &home, variable)?,
            endpoint,
            download_wait: seconds("HF_HUB_DOWNLOAD_TIMEOUT", &set)?,
            metadata_wait: seconds("HF_HUB_ETAG_TIMEOUT", &set)?,
        })
    }
}

/// The token to send, from a variable or from the file that `hf auth login` writes.
fn token(
    set: &dyn Fn(&str) -> Option<String>,
    home: &Path,
    variable: Variables<'_>,
) -> Result<Option<String>, String> {
    if set("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return Ok(None);
    }
    let of_file = || {
        let path =
            set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), |text| expanded(&text, variable).into());
        // Opened only if it is a file: a pipe would block.
        path.is_file().then(|| std::fs::read_to_string(path).ok()).flatten()
    };
    let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(of_file);
    let token = token.map(|token| token.replace(['\r', '\n'], "").trim().to_owned());
    match token.filter(|token| !token.is_empty()) {
        // It becomes a header's value.
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("the token of HF_TOKEN or of the token file holds what no token has, such as a space"
                .to_owned())
        }
        token => Ok(token),
    }
}

fn seconds(name: &str, set: &dyn Fn(&str) -> Option<String>) -> Result<Duration, String> {
    let Some(text) = set(name) else { return Ok(WAIT) };
    match text.trim().parse::<u64>() {
        Ok(0) => Ok(WAIT),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => Err(format!("{name} is {text:?}, expected a number of seconds")),
    }
}

/// What Python's library takes for true; everything else is false to it.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// `~` at the start, then `$NAME` and `${NAME}`; those that are not set stay as they are, as in Python.
fn expanded(text: &str, variable: Variables<'_>) -> String {
    let home = || {
        let home = variable("HOME").filter(|home| !home.is_empty());
        home.or_else(|| Some(std::env::home_dir()?.display().to_string()))
    };
    let text = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match home() {
            Some(home) => format!("{}{rest}", home.trim_end_matches('/')),
            None => text.to_owned(),
        },
        _ => text.to_owned(),
    };
    let mut result = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find('$') {
        result.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some((name, length)) = variable_name(rest) else {
            result.push('$');
            rest = &rest[1..];
            continue;
        };
        match variable(name) {
            Some(value) => result.push_str(&value),
            None => result.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    result + rest
}

/// The name in `$NAME...` or `${NAME}...`, and the length of the whole.
fn variable_name(text: &str) -> Option<(&str, usize)> {
    let after = text.strip_prefix('$')?;
    if let Some(braced) = after.strip_prefix('{') {
        let end = braced.find('}').filter(|&end| end > 0)?;
        return Some((&braced[..end], end + 3));
    }
    let end = after.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let end = end.unwrap_or(after.len());
    (end > 0).then(|| (&after[..end], end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, String> {
        let find =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Environment::read(&find)
    }

    /// Held against `huggingface_hub` 2.4.
    #[test]
    fn the_cache_is_where_python_has_it() {
        for (pairs, cache) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "~/x")], "/h/x/huggingface/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/f"), ("XDG_CACHE_HOME", "/x")], "/f/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub"),
            (
                &[("HOME", "/h"), ("HF_HOME", "$SCRATCH/${USER}"), ("SCRATCH", "/s"), ("USER", "u")],
                "/s/u/hub",
            ),
            (&[("HOME", "/h"), ("HF_HOME", "/a/$NONE/$")], "/a/$NONE/$/hub"),
            (&[("HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "~/c"), ("HF_HOME", "/f")], "/h/c"),
            (&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/d"), ("HF_HOME", "/f")], "/c"),
        ] {
            assert_eq!(read(pairs).unwrap().cache, Path::new(cache), "{pairs:?}");
        }
    }

    #[test]
    fn what_is_true_is_true_to_python() {
        for (pairs, is_offline) in [
            (&[("HF_HUB_OFFLINE", "1")][..], true),
            (&[("HF_HUB_OFFLINE", "True")], true),
            (&[("HF_HUB_OFFLINE", "on")], true),
            (&[("HF_HUB_OFFLINE", "0")], false),
            (&[("HF_HUB_OFFLINE", "")], false),
            (&[("TRANSFORMERS_OFFLINE", "yes")], true),
            (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")], true),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
        ] {
            assert_eq!(read(pairs).unwrap().is_offline, is_offline, "{pairs:?}");
        }
    }

    #[test]
    fn the_token_is_that_of_python() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, " hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        for (pairs, token) in [
            (&[("HF_TOKEN", " hf_a\n"), ("HUGGING_FACE_HUB_TOKEN", "hf_b")][..], Some("hf_a")),
            (&[("HUGGING_FACE_HUB_TOKEN", "hf_b")], Some("hf_b")),
            (&[("HF_TOKEN", ""), ("HUGGING_FACE_HUB_TOKEN", "hf_b")], Some("hf_b")),
            (&[("HF_HOME", home)], Some("hf_file")),
            (&[("HF_TOKEN_PATH", file.to_str().unwrap()), ("HF_HOME", "/nowhere")], Some("hf_file")),
            (&[("HF_HOME", "/nowhere")], None),
            (&[("HF_TOKEN", "hf_a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
        ] {
            assert_eq!(read(pairs).unwrap().token.as_deref(), token, "{pairs:?}");
        }
        assert!(read(&[("HF_TOKEN", "hf a")]).unwrap_err().contains("HF_TOKEN"));
    }

    #[test]
    fn addresses_and_times_are_checked() {
        assert_eq!(read(&[]).unwrap().endpoint, ENDPOINT);
        let mirror = read(&[("HF_ENDPOINT", "https://mirror/"), ("HF_HUB_DOWNLOAD_TIMEOUT", "30")]).unwrap();
        assert_eq!((mirror.endpoint.as_str(), mirror.download_wait), ("https://mirror", 3 * WAIT));
        assert!(read(&[("HF_ENDPOINT", "mirror")]).unwrap_err().contains("HF_ENDPOINT"));
        assert!(read(&[("HF_HUB_ETAG_TIMEOUT", "soon")]).unwrap_err().contains("HF_HUB_ETAG_TIMEOUT"));
    }
}
