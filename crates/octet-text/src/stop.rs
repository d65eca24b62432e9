//! Stop strings.

use std::sync::Arc;

/// Stop strings, ready to be looked for. Clones share them: all sequences of a request look for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopStrings {
    patterns: Arc<[Pattern]>,
}

impl From<Vec<String>> for StopStrings {
    /// Empty strings, which would match everywhere, are left out.
    fn from(stops: Vec<String>) -> Self {
        let patterns = stops.into_iter().filter(|stop| !stop.is_empty()).map(Pattern::new).collect();
        Self { patterns }
    }
}

/// Looks for stop strings in a text that comes in pieces, and holds back what may be the beginning of one.
///
/// The stop string that is complete first wins; of several that end at the same place, the longest. So the outcome is
/// the same however the text is cut into pieces. At most the longest stop string less one byte is held back, and only
/// while it matches.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: StopStrings,
    /// For each of them, how many of its bytes the end of the text matches.
    matched: Vec<usize>,
    include_in_output: bool,
    /// Text that is not given out yet.
    held: String,
    found: Option<usize>,
}

/// A stop string as the automaton of Knuth, Morris and Pratt.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// For each length of a match: the next shorter match that the same text is the end of.
    shorter: Vec<usize>,
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut shorter = vec![0; bytes.len() + 1];
        for length in 2..=bytes.len() {
            let mut candidate = shorter[length - 1];
            while candidate > 0 && bytes[candidate] != bytes[length - 1] {
                candidate = shorter[candidate];
            }
            shorter[length] = candidate + usize::from(bytes[candidate] == bytes[length - 1]);
        }
        Self { text, shorter }
    }

    /// Takes one byte of the text, of which `matched` bytes match; true when the stop string is complete.
    fn advance(&self, matched: &mut usize, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while *matched > 0 && bytes[*matched] != byte {
            *matched = self.shorter[*matched];
        }
        *matched += usize::from(bytes[*matched] == byte);
        *matched == bytes.len()
    }
}

impl StopMatcher {
    /// A matcher at the start of a text.
    #[must_use]
    pub fn new(stops: StopStrings, include_in_output: bool) -> Self {
        let matched = vec![0; stops.patterns.len()];
        Self { stops, matched, include_in_output, held: String::new(), found: None }
    }

    /// Takes the next piece of text and appends to `out` what is certain to be shown. After a stop string was found,
    /// everything is swallowed.
    pub fn push(&mut self, text: &str, out: &mut String) {
        if self.found.is_some() {
            return;
        }
        for (index, byte) in text.bytes().enumerate() {
            let mut longest: Option<usize> = None;
            for (number, (stop, matched)) in self.stops.patterns.iter().zip(&mut self.matched).enumerate() {
                if stop.advance(matched, byte) && longest.is_none_or(|best| best < stop.text.len()) {
                    longest = Some(stop.text.len());
                    self.found = Some(number);
                }
            }
            if let Some(length) = longest {
                self.held.push_str(&text[..=index]);
                let end = if self.include_in_output { self.held.len() } else { self.held.len() - length };
                out.push_str(&self.held[..end]);
                self.held.clear();
                return;
            }
        }
        let kept = self.matched.iter().copied().max().unwrap_or(0);
        if self.held.is_empty() && kept == 0 {
            out.push_str(text);
            return;
        }
        self.held.push_str(text);
        let shown = self.held.len() - kept;
        out.push_str(&self.held[..shown]);
        self.held.drain(..shown);
    }

    /// Appends what was held back: the text is over, or no stop string may begin before here.
    pub fn release(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.matched.fill(0);
    }

    /// The stop string that was found.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.found.map(|number| self.stops.patterns[number].text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(stops: &[&str]) -> StopStrings {
        stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>().into()
    }

    /// Shown text and stop string, with the text cut into pieces of `size` characters.
    fn search(stops: &[&str], include: bool, text: &str, size: usize) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(strings(stops), include);
        let mut shown = String::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(size) {
            matcher.push(&piece.iter().collect::<String>(), &mut shown);
        }
        if matcher.found().is_none() {
            matcher.release(&mut shown);
        }
        (shown, matcher.found().map(str::to_owned))
    }

    #[test]
    fn the_first_complete_stop_string_wins_however_the_text_is_cut() {
        let cases: [(&[&str], &str, &str, Option<&str>); 8] = [
            (&["END"], "the END is near", "the ", Some("END")),
            (&["END"], "ENEND", "EN", Some("END")),
            (&["aab"], "aaaab", "aa", Some("aab")),
            (&["abcd", "bc"], "xabcd", "xa", Some("bc")),
            (&["bc", "abc"], "xabc", "x", Some("abc")),
            (&["\n\n", "。終"], "一。終\n\n", "一", Some("。終")),
            (&["xyz"], "ends in xy", "ends in xy", None),
            (&["", "q"], "no match", "no match", None),
        ];
        for (stops, text, shown, found) in cases {
            for size in 1..=text.chars().count() {
                assert_eq!(
                    search(stops, false, text, size),
                    (shown.to_owned(), found.map(str::to_owned)),
                    "{text:?} by {size}"
                );
            }
        }
    }

    #[test]
    fn the_stop_string_is_shown_if_wanted() {
        assert_eq!(
            search(&["END"], true, "the END is near", 2),
            ("the END".to_owned(), Some("END".to_owned()))
        );
    }

    #[test]
    fn no_more_is_held_back_than_may_match() {
        let mut matcher = StopMatcher::new(strings(&["<stop>"]), false);
        let mut shown = String::new();
        for (piece, expected) in
            [("a", "a"), ("<st", "a"), ("o", "a"), ("n", "a<ston"), ("<stop", "a<ston"), (">b", "a<ston")]
        {
            matcher.push(piece, &mut shown);
            assert_eq!(shown, expected);
        }
        assert_eq!(matcher.found(), Some("<stop>"));
        matcher.push("more", &mut shown);
        assert_eq!(shown, "a<ston");
    }
}
