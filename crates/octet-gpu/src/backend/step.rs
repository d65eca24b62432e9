//! Steps as graphs: seen once they run, seen twice they are recorded, after that they are replayed.

use std::collections::HashMap;
use std::sync::Arc;

use octet_backend::{BackendError, StepKey};

use crate::backend::GpuBackend;
use crate::driver::Graph;

/// What a recorded step depends on besides its key: how attention was split.
pub(super) type GraphKey = (StepKey, usize);

/// What is known of a step.
pub(super) enum Recording {
    /// It ran once: kernels and scratch memory are there.
    Seen,
    /// It can be replayed.
    Ready(Graph, Bounds),
}

/// What the operations of a recorded step were checked against: replayed, they are not asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Rows of the embedding.
    pub(super) table_rows: Option<usize>,
    /// Blocks of the cache and their size.
    pub(super) cache: Option<(usize, usize)>,
}

/// All recordings.
pub(super) type Recordings = HashMap<GraphKey, Recording>;

impl GpuBackend {
    /// How many steps can be replayed now.
    #[must_use]
    pub fn recorded_steps(&self) -> usize {
        self.recordings.values().filter(|recording| matches!(recording, Recording::Ready(..))).count()
    }

    pub(super) fn run(
        &mut self,
        key: StepKey,
        body: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        // Only decode steps come again and again with the same shape.
        if !self.records_graphs || !key.decode_only {
            return body(self);
        }
        let graph_key = (key, self.splits);
        match self.recordings.get(&graph_key) {
            None => {
                body(self)?;
                self.recordings.insert(graph_key, Recording::Seen);
                Ok(())
            }
            Some(Recording::Seen) => self.record(graph_key, body),
            Some(Recording::Ready(graph, bounds)) => {
                let facts = &self.batch.facts;
                if let Some(rows) = bounds.table_rows {
                    facts.check_tokens(rows)?;
                }
                if let Some((blocks, block_size)) = bounds.cache {
                    facts.check_cache(blocks, block_size)?;
                }
                Ok(graph.launch(&self.stream)?)
            }
        }
    }

    fn record(
        &mut self,
        key: GraphKey,
        body: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let stream = Arc::clone(&self.stream);
        self.bounds = Bounds::default();
        self.is_recording = true;
        let recorded = stream.record(|| body(self));
        self.is_recording = false;
        match recorded {
            Ok(graph) => {
                graph.launch(&stream)?;
                self.recordings.insert(key, Recording::Ready(graph, self.bounds));
                Ok(())
            }
            // What the operations refuse has nothing to do with the recording.
            Err(error) if !matches!(error, BackendError::Device(_)) => Err(error),
            Err(error) => {
                // The step itself may be fine: without recordings it is slower, not wrong.
                tracing::warn!(%error, "steps are not recorded on this device");
                self.records_graphs = false;
                self.recordings.clear();
                body(self)
            }
        }
    }
}
