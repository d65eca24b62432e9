//! Server-sent events, read as they come: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::io::{self, BufRead};

/// What ends a stream of OpenAI's API.
pub(crate) const DONE: &str = "[DONE]";

/// The events of one answer. Only their data matters here: names, ids and comments are passed over.
pub(crate) struct Events<R> {
    reader: R,
    line: String,
    data: String,
}

impl<R: BufRead> Events<R> {
    /// Events that `reader` brings.
    pub(crate) const fn new(reader: R) -> Self {
        Self { reader, line: String::new(), data: String::new() }
    }

    /// Waits for the next event and returns its data, lines joined by newlines; `None` at the end of the stream. An
    /// event that the end of the stream cuts off before its empty line counts: some servers end their last one so.
    ///
    /// # Errors
    /// The connection broke, or sent something that is not text.
    pub(crate) fn next(&mut self) -> io::Result<Option<&str>> {
        self.data.clear();
        let mut has_data = false;
        loop {
            self.line.clear();
            let ended = self.reader.read_line(&mut self.line)? == 0;
            let line = self.line.trim_end_matches(['\n', '\r']);
            if line.is_empty() && (has_data || ended) {
                return Ok(has_data.then_some(self.data.as_str()));
            }
            if let Some(data) = line.strip_prefix("data:") {
                if has_data {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
                has_data = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let mut events = Events::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(data) = events.next().expect("memory can be read") {
            found.push(data.to_owned());
        }
        found
    }

    #[test]
    fn events_are_told_apart_by_empty_lines() {
        assert_eq!(all("data: {\"a\": 1}\n\ndata: [DONE]\n\n"), ["{\"a\": 1}", DONE]);
        assert_eq!(all("data: a\r\n\r\ndata: b\r\n\r\n"), ["a", "b"]);
        assert_eq!(all("\n\n\ndata:a\n\n\n\ndata:  b\n\n"), ["a", " b"]);
    }

    #[test]
    fn comments_names_and_ids_are_passed_over() {
        assert_eq!(all(": ping\n\nevent: message\nid: 7\ndata: a\nretry: 3\n\n: ping\n\n"), ["a"]);
    }

    #[test]
    fn data_may_have_several_lines_or_none() {
        assert_eq!(all("data: a\ndata: b\n\n"), ["a\nb"]);
        assert_eq!(all("data:\n\ndata: x\n\n"), ["", "x"]);
        // U+2028 ends a line for some, but not here: JSON may hold it unescaped.
        assert_eq!(all("data: a\u{2028}b\n\n"), ["a\u{2028}b"]);
    }

    #[test]
    fn the_end_of_the_stream_ends_the_last_event() {
        assert_eq!(all("data: a"), ["a"]);
        assert_eq!(all("data: a\n"), ["a"]);
        assert_eq!(all(""), [""; 0]);
        assert_eq!(all("event: x\n"), [""; 0]);
    }

    #[test]
    fn what_is_no_text_is_an_error() {
        let mut events = Events::new(&b"data: \xFF\n\n"[..]);
        assert_eq!(events.next().map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
    }
}
