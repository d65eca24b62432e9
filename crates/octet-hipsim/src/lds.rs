//! How much LDS a kernel declares, from the symbols of its library.

use object::{Object, ObjectSymbol};

/// The thread-local variables of a library, which are its LDS: names and bytes.
#[derive(Debug, Default)]
pub(crate) struct Lds {
    variables: Vec<(String, usize)>,
}

impl Lds {
    /// Reads a library's symbols.
    pub(crate) fn read(library: &[u8]) -> Self {
        let Ok(file) = object::File::parse(library) else { return Self::default() };
        let variable = |symbol: object::Symbol<'_, '_>| {
            let name = (symbol.kind() == object::SymbolKind::Tls).then(|| symbol.name().ok())??;
            Some((name.to_owned(), usize::try_from(symbol.size()).ok()?))
        };
        Self { variables: file.symbols().filter_map(variable).collect() }
    }

    /// Bytes of the variables that stand in the body of a kernel. Those of functions that it calls are not counted: the
    /// symbols do not say who calls them, and AMD's compiler checks the true sum.
    pub(crate) fn of_kernel(&self, name: &str) -> usize {
        // A variable of a function has the function's name, with its length, in its own: `_ZZL12reverse_bodyRK…E4tile`.
        let body = format!("{name}_body");
        let mark = format!("_ZZL{}{body}", body.len());
        self.variables
            .iter()
            .filter(|(variable, _)| variable.starts_with(&mark))
            .map(|(_, bytes)| bytes)
            .sum()
    }
}
