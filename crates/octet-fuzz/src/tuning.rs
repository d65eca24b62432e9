//! Files of GEMM tuning: our results, and PyTorch's lists of products to tune.

use octet_backend::Validator;
use octet_tune::{Store, read_untuned};

use crate::folder::Folder;

thread_local! {
    static FOLDER: Folder = Folder::new();
}

pub(crate) fn run(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        folder.write("tuning.csv", bytes);
        let path = folder.path().join("tuning.csv");
        let store = Store::open(path.clone(), vec![Validator::new("DEVICE_KIND", "cpu")]);
        let Ok((problems, mut notes)) = read_untuned(&path) else { return false };
        notes.extend(store.notes().iter().cloned());
        // Both are printed.
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
        problems.len() + store.results().len() > 0 && notes.iter().all(|note| !note.is_empty())
    })
}
