//! Small damages to an input, drawn from a generator with a fixed seed.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng as _;

/// What parsers stumble over: extremes, odd nesting, wrong kinds, broken text.
const TOKENS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"1e-39",
    b"-0.0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"NaN",
    b"[]",
    b"{}",
    b"[[[[[[[[",
    b"\"\"",
    b"\"\\ud800\"",
    b"\\u0000",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\0",
    b",",
    b"\n",
    b"{{",
    b"{%",
    b"2147483648",
];

/// See the module.
pub(crate) struct Mutator {
    random: Pcg64,
    inputs: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(inputs: Vec<Vec<u8>>) -> Self {
        Self { random: Pcg64::new(8, 8), inputs }
    }

    /// A number below `end`, which may be 0.
    fn below(&mut self, end: usize) -> usize {
        (self.random.next_u64() % (end.max(1) as u64)) as usize
    }

    /// A copy with one to four damages.
    pub(crate) fn mutate(&mut self, input: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(7) {
            0 => {
                let mask = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
            1 => drop(bytes.drain(at..end.max(at))),
            2 => bytes.truncate(at),
            3 => {
                let token = TOKENS[self.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            4 => {
                // A number or a word is replaced as a whole.
                let token = TOKENS[self.below(TOKENS.len())];
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
                let length = bytes[at..].iter().take_while(|byte| word(byte)).count();
                bytes.splice(at..at + length, token.iter().copied());
            }
            5 => {
                let piece = bytes[at..end.max(at)].repeat(1 + self.below(8));
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = self.below(self.inputs.len());
                let from = self.below(self.inputs[other].len() + 1);
                let until = (from + self.below(64)).min(self.inputs[other].len());
                let piece = self.inputs[other][from..until.max(from)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}
