//! JSON as Python's `json.dumps` writes it.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Lists and objects inside of each other; Python stops at its recursion limit.
pub(super) const DEEPEST: usize = 200;

/// The arguments of `tojson` in `transformers`, and who pays.
pub(super) struct JsonOptions<'a> {
    /// Called with the bytes that were written: a value may be small and its JSON endless, for a list can hold another
    /// many times.
    pub(super) charge: &'a dyn Fn(usize) -> Result<(), Error>,
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) is_ascii: bool,
    pub(super) sorts_keys: bool,
}

impl JsonOptions<'_> {
    /// Writes a value.
    pub(super) fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write_value(value, 0, &mut out)?;
        Ok(out)
    }

    fn write_value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            let message = format!("tojson: lists and objects lie more than {DEEPEST} deep in each other");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        let before = out.len();
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(('[', ']'), items.len(), depth, out, |index, out| {
                    self.write_value(&items[index], depth + 1, out)
                })?;
            }
            ValueKind::Map => self.write_map(value, depth, out)?,
            kind => {
                let message = format!("Object of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        // What items wrote they have paid for themselves.
        let is_container = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map);
        (self.charge)(if is_container { 64 } else { out.len() - before })
    }

    fn write_map(&self, map: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sorts_keys {
            keys.sort();
        }
        self.write_items(('{', '}'), keys.len(), depth, out, |index, out| {
            let key = &keys[index];
            match key.as_str() {
                Some(text) => self.write_string(text, out),
                // Python turns other keys into strings of their JSON.
                None => {
                    let mut text = String::new();
                    self.write_value(key, depth, &mut text)?;
                    self.write_string(&text, out);
                }
            }
            out.push_str(&self.key_separator);
            self.write_value(&map.get_item(key)?, depth + 1, out)
        })
    }

    /// Writes brackets with items between them.
    fn write_items(
        &self,
        (open, close): (char, char),
        count: usize,
        depth: usize,
        out: &mut String,
        write_item: impl Fn(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for index in 0..count {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            self.break_line(depth + 1, out);
            (self.charge)(self.indent.as_ref().map_or(0, String::len) * (depth + 1))?;
            write_item(index, out)?;
        }
        if count > 0 {
            self.break_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(character),
                _ if character >= ' ' && !self.is_ascii => out.push(character),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("a string can be written to");
                    }
                }
            }
        }
        out.push('"');
    }
}

/// A number as Python's `repr` writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(number) => float(number),
        Err(_) => value.to_string(),
    }
}

/// Shortest digits that give the number back; with an exponent below 1e-4 and from 1e16.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format writes an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a small number");
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_by_python() {
        let cases = [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1.234_567_890_123_456_8e17, "1.2345678901234568e+17"),
            (1e100, "1e+100"),
        ];
        for (number, text) in cases {
            assert_eq!(float(number), text);
        }
    }
}
