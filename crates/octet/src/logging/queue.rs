//! Lines on their way to a stream that may be slow, full or gone: whoever says something never waits for it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes of lines that may wait. A burst of any server fits; a pipe that nobody drains costs no more.
const CAPACITY_BYTES: usize = 1 << 20;

/// Pause before a stream that was set not to block is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Lines that wait, and the thread that writes them. What finds no room or cannot be written is dropped and counted,
/// and the next line that gets through is preceded by one that says how many were lost.
#[derive(Debug)]
pub(crate) struct LineQueue {
    state: Mutex<State>,
    /// Rings when a line comes.
    filled: Condvar,
    /// Rings when all lines are written.
    emptied: Condvar,
    /// Lines lost since the start; also read by others, as a metric.
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread is writing a line that it has taken.
    writing: bool,
}

impl LineQueue {
    /// A queue, and the thread that writes its lines to `stream`.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn start(
        stream: impl Write + Send + 'static,
        dropped: Arc<AtomicU64>,
    ) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped,
        });
        let lines = Arc::clone(&queue);
        // Read here, because lines may be lost before the thread runs.
        let reported = queue.dropped.load(Ordering::Relaxed);
        thread::Builder::new()
            .name("octet-log".to_owned())
            .spawn(move || lines.write_all(stream, reported))?;
        Ok(queue)
    }

    /// Queues text, which ends with a line break, or drops it. Never waits for the stream.
    pub(crate) fn push(&self, text: &[u8]) {
        let mut state = self.state();
        if state.bytes + text.len() > CAPACITY_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += text.len();
        state.lines.push_back(text.to_vec());
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until all is written, or `patience` is over.
    pub(crate) fn flush(&self, patience: Duration) {
        let waits = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.emptied.wait_timeout_while(self.state(), patience, waits));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's body. `reported` losses are nothing new.
    fn write_all(&self, mut stream: impl Write, mut reported: u64) {
        loop {
            let line = self.next();
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped > reported && write(&mut stream, loss(dropped - reported).as_bytes()).is_ok() {
                reported = dropped;
            }
            if write(&mut stream, &line).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits for a line; what was taken before counts as written.
    fn next(&self) -> Vec<u8> {
        let mut state = self.state();
        state.writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return line;
            }
            self.emptied.notify_all();
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn loss(lines: u64) -> String {
    let (lines, were) =
        if lines == 1 { ("1 line".to_owned(), "was") } else { (format!("{lines} lines"), "were") };
    format!("warning: {lines} of this log {were} lost: nothing took them in time\n")
}

/// Writes all of it; a stream that was set not to block is waited for.
fn write(stream: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Takes a line each time that it is told to, with an error if it is told so.
    struct Gate {
        verdicts: mpsc::Receiver<bool>,
        taken: Arc<Mutex<String>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.verdicts.recv() == Ok(false) {
                return Err(ErrorKind::StorageFull.into());
            }
            self.taken.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_nobody_takes_is_dropped_and_counted_and_said_when_it_goes_on() {
        let (open, verdicts) = mpsc::channel();
        let taken = Arc::<Mutex<String>>::default();
        let dropped = Arc::<AtomicU64>::default();
        let gate = Gate { verdicts, taken: Arc::clone(&taken) };
        let queue = LineQueue::start(gate, Arc::clone(&dropped)).unwrap();
        queue.push(b"first\n");
        // The first line is with the thread, or still counts; two of a half of the room each do not both fit with it.
        let half = [b'x'; CAPACITY_BYTES / 2];
        (0..4).for_each(|_| queue.push(&half));
        let lost = dropped.load(Ordering::Relaxed);
        assert!(lost == 2 || lost == 3, "{lost}");
        // The stream refuses the first line's place, then takes all.
        open.send(false).unwrap();
        (0..8).for_each(|_| open.send(true).unwrap());
        queue.flush(PATIENCE);
        let all = taken.lock().unwrap().clone();
        assert!(all.contains("lines of this log were lost"), "{}", &all[..80]);
        assert!(dropped.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn lines_come_in_order_and_all_are_there_after_a_flush() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let queue = LineQueue::start(writer, Arc::default()).unwrap();
        queue.push(b"one\n");
        queue.push(b"two\n");
        queue.flush(PATIENCE);
        let mut text = [0; 8];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one\ntwo\n");
    }

    #[test]
    fn a_flush_does_not_wait_for_ever() {
        let (open, verdicts) = mpsc::channel();
        let queue = LineQueue::start(Gate { verdicts, taken: Arc::default() }, Arc::default()).unwrap();
        queue.push(b"nobody takes this\n");
        queue.flush(Duration::from_millis(20));
        drop(open);
    }

    #[test]
    fn a_loss_is_told_in_words() {
        assert_eq!(loss(1), "warning: 1 line of this log was lost: nothing took them in time\n");
        assert_eq!(loss(2), "warning: 2 lines of this log were lost: nothing took them in time\n");
    }
}
