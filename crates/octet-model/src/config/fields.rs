//! What was typed: the keys of a JSON object, read one by one so that every error names its key.

use serde_json::{Map, Value};

use crate::ModelError;

/// A JSON object with the name of its file and the path to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    path: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The object at `path` (empty for the whole file) of `file`.
    pub(crate) fn new(file: &'a str, path: &'a str, object: &'a Map<String, Value>) -> Self {
        Self { file, path, object }
    }

    /// The file's name, for errors.
    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    /// The value of a key; JSON's null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key stands there at all, null or not.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// An error about a key.
    pub(crate) fn error(&self, key: &str, expected: impl Into<String>) -> ModelError {
        let found = self.object.get(key).map_or_else(|| "missing".to_owned(), short);
        let key = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        ModelError::Field { file: self.file.to_owned(), key, found, expected: expected.into() }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.error(key, expected)),
        }
    }

    /// An integer of at least one, if there is one.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a positive integer", |value| {
            value.as_u64().filter(|&number| number > 0).and_then(|number| usize::try_from(number).ok())
        })
    }

    /// An integer of at least one and at most `most`, if there is one: sizes beyond any model would only end in overflow
    /// or in hours of planning.
    pub(crate) fn size(&self, key: &str, most: usize) -> Result<Option<usize>, ModelError> {
        let size = self.positive(key)?;
        if size.is_some_and(|size| size > most) {
            return Err(self.error(key, format!("at most {most}")));
        }
        Ok(size)
    }

    /// As [`Fields::size`] for a key that must be there.
    pub(crate) fn required_size(&self, key: &str, most: usize) -> Result<usize, ModelError> {
        self.size(key, most)?.ok_or_else(|| self.error(key, "a positive integer"))
    }

    /// A non-negative integer, if there is one.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "an integer of at least 0", |value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok())
        })
    }

    /// A finite number, if there is one.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// A number above zero, if there is one.
    pub(crate) fn positive_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number above 0", |value| {
            value.as_f64().filter(|&number| number.is_finite() && number > 0.0)
        })
    }

    /// A flag; `default` when the key is absent.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text, if there is one.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a text", Value::as_str)
    }

    /// An object, if there is one.
    pub(crate) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, ModelError> {
        self.typed(key, "an object", Value::as_object)
    }

    /// A list of positive integers; empty when the key is absent.
    pub(crate) fn sizes(&self, key: &str) -> Result<Vec<usize>, ModelError> {
        let size = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|size| *size > 0);
        let list = self.typed(key, "a list of positive integers", |value| {
            value.as_array()?.iter().map(size).collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// A list of texts; empty when the key is absent.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, ModelError> {
        let list = self.typed(key, "a list of texts", |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// Token ids: one number or a list of them; empty when the key is absent. -1 is how some makers write that there is
    /// none.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| match value.as_i64() {
            Some(-1) => Some(None),
            Some(id) => u32::try_from(id).ok().map(Some),
            None => None,
        };
        let ids = self.typed(key, "a token id or a list of token ids", |value| match value.as_array() {
            Some(items) => items.iter().map(id).collect::<Option<Vec<_>>>(),
            None => id(value).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default().into_iter().flatten().collect())
    }

    /// Refuses a key that is in none of the lists, unless its value asks for nothing: what it would change is not known.
    pub(crate) fn refuse_all_but(&self, known: &[&[&str]]) -> Result<(), ModelError> {
        let is_known = |key: &String| known.iter().any(|list| list.contains(&key.as_str()));
        let unread = self.object.iter().find(|(key, value)| !is_known(key) && !asks_for_nothing(value));
        match unread {
            None => Ok(()),
            Some((key, _)) => {
                let mut names: Vec<_> = known.iter().copied().flatten().copied().collect();
                names.sort_unstable();
                let known = names.join(", ");
                Err(self
                    .error(key, format!("no such key, because it may change the results; known: {known}")))
            }
        }
    }

    /// All keys with a value that asks for something.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.iter().filter(|(_, value)| !asks_for_nothing(value)).map(|(key, _)| key.as_str())
    }
}

/// Whether a value is null, false, empty, or an object of such values.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.values().all(asks_for_nothing),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A value as JSON, cut short for a message.
fn short(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_key_what_was_found_and_what_would_do() {
        let value =
            json!({ "layers": "many", "none": null, "ids": [1, -2], "huge": 65, "none_ids": [3, -1] });
        let fields = Fields::new("config.json", "", value.as_object().unwrap());
        let error = fields.required_size("layers", 64).unwrap_err().to_string();
        assert_eq!(error, "config.json: layers is \"many\", expected a positive integer");
        assert_eq!(fields.positive("none").unwrap(), None);
        let error = fields.required_size("heads", 64).unwrap_err().to_string();
        assert_eq!(error, "config.json: heads is missing, expected a positive integer");
        assert!(fields.token_ids("ids").is_err());
        assert_eq!(fields.token_ids("none_ids").unwrap(), [3]);
        let error = fields.size("huge", 64).unwrap_err().to_string();
        assert_eq!(error, "config.json: huge is 65, expected at most 64");
    }

    #[test]
    fn unread_keys_are_refused_if_they_ask_for_something() {
        let value = json!({ "read": 1, "nothing": null, "off": false, "empty": {} });
        let fields = Fields::new("config.json", "block", value.as_object().unwrap());
        fields.refuse_all_but(&[&["read"]]).unwrap();
        let error = fields.refuse_all_but(&[&["other"], &["more"]]).unwrap_err().to_string();
        let expected = "config.json: block.read is 1, expected no such key, because it may change the results; known: more, other";
        assert_eq!(error, expected);
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let long = Value::String("ü".repeat(200));
        assert!(short(&long).chars().count() < 100);
    }
}
