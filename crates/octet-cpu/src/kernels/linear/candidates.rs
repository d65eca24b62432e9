//! Schedules that tuning chooses from: one table for each form of product and size of batch. An entry is a line, not a
//! copy of code, and all of them give the same bits.

use octet_backend::{BackendError, DataType, GemmProblem, ScaleShape};

use super::plan::BLOCK_ROWS;
use super::schedule::{MOST_BLOCK_COLUMNS, Schedule};
use super::tile::TILE_ROWS as VECTOR_ROWS;
use super::weight::{Arithmetic, Encoding, Form};
use crate::isa::Isa;
use crate::simd::tiles::{TILE_COLUMNS, TILE_ROWS as MATRIX_ROWS};

/// Name of whatever [`Schedule::default_for`] says.
pub(crate) const DEFAULT: &str = "Default";

/// Named schedules for a problem, the default not among them. None if weights of its type cannot be packed.
pub(crate) fn candidates(isa: Isa, problem: &GemmProblem) -> Vec<(String, Schedule)> {
    let Ok(form) = form(isa, problem) else { return Vec::new() };
    let tokens = problem.bucket.tokens();
    let mut all = match form {
        Form::Vectors if tokens <= VECTOR_ROWS => few_rows_by_vectors(),
        Form::Vectors => many_rows_by_vectors(tokens),
        Form::Tiles if tokens <= MATRIX_ROWS => few_rows_by_tiles(problem.columns),
        Form::Tiles => many_rows_by_tiles(tokens),
    };
    // Gate and up are not parted, and scales of blocks set the width.
    all.retain(|schedule| !problem.is_gated || schedule.panels_per_task >= 2);
    if let ScaleShape::Block { columns, .. } = problem.scales {
        all.iter_mut().for_each(|schedule| schedule.columns_per_block = columns);
    }
    let mut named: Vec<(String, Schedule)> = Vec::with_capacity(all.len());
    for schedule in all {
        if named.iter().all(|(_, other)| *other != schedule) {
            named.push((name(form, &schedule), schedule));
        }
    }
    named
}

/// What products of this problem are made of.
fn form(isa: Isa, problem: &GemmProblem) -> Result<Form, BackendError> {
    let encoding = Encoding::of(problem.weight)?;
    let scale_columns = match problem.scales {
        ScaleShape::Block { columns, .. } => Some(columns),
        ScaleShape::None | ScaleShape::Tensor | ScaleShape::Channel => None,
    };
    Ok(Arithmetic::new(isa, encoding, scale_columns).form)
}

/// Whether weights of a type can be packed.
pub(crate) fn can_pack(data_type: DataType) -> bool {
    Encoding::of(data_type).is_ok()
}

/// Such as `Tiles_R512_P16_C512_A6144`: rows and columns of a block, panels of a task, bytes asked for ahead.
fn name(form: Form, schedule: &Schedule) -> String {
    let form = match form {
        Form::Vectors => "Vectors",
        Form::Tiles => "Tiles",
    };
    let Schedule { rows_per_block, panels_per_task, columns_per_block, ahead_bytes } = schedule;
    format!("{form}_R{rows_per_block}_P{panels_per_task}_C{columns_per_block}_A{ahead_bytes}")
}

/// All combinations, since a run is short.
fn combinations(rows_per_block: usize, panels: &[usize], widths: &[usize], ahead: &[usize]) -> Vec<Schedule> {
    let mut all = Vec::new();
    for &panels_per_task in panels {
        for &columns_per_block in widths {
            for &ahead_bytes in ahead {
                all.push(Schedule { rows_per_block, panels_per_task, columns_per_block, ahead_bytes });
            }
        }
    }
    all
}

/// Schedules from (rows of a block, panels of a task, columns of a block, bytes ahead), of which those stay whose
/// blocks of rows differ for a number of tokens.
fn listed(tokens: usize, entries: &[(usize, usize, usize, usize)]) -> Vec<Schedule> {
    let mut all = Vec::new();
    for &(rows_per_block, panels_per_task, columns_per_block, ahead_bytes) in entries {
        let schedule = Schedule { rows_per_block, panels_per_task, columns_per_block, ahead_bytes };
        let same = |other: &Schedule| {
            let one_block = tokens <= other.rows_per_block && tokens <= rows_per_block;
            one_block && Schedule { rows_per_block, ..*other } == schedule
        };
        if !all.iter().any(same) {
            all.push(schedule);
        }
    }
    all
}

fn few_rows_by_vectors() -> Vec<Schedule> {
    combinations(BLOCK_ROWS, &[1, 2, 4, 8], &[256, MOST_BLOCK_COLUMNS], &[0, 2048, 4096, 8192])
}

fn many_rows_by_vectors(tokens: usize) -> Vec<Schedule> {
    listed(
        tokens,
        &[
            (192, 8, 256, 4096),
            (192, 4, 256, 4096),
            (192, 2, 256, 4096),
            (192, 16, 256, 4096),
            (192, 8, 256, 0),
            (192, 8, 512, 4096),
            (192, 4, 512, 4096),
            (96, 8, 256, 4096),
            (96, 16, 256, 4096),
            (384, 8, 256, 4096),
            (384, 4, 256, 4096),
            (384, 8, 512, 4096),
        ],
    )
}

/// One tile of rows needs no room for widened weights, so a block may be as wide as the weight.
fn few_rows_by_tiles(columns: usize) -> Vec<Schedule> {
    let whole = columns.next_multiple_of(TILE_COLUMNS).max(MOST_BLOCK_COLUMNS);
    let widths = [MOST_BLOCK_COLUMNS, whole];
    let widths = if whole > MOST_BLOCK_COLUMNS { &widths[..] } else { &widths[..1] };
    combinations(512, &[2, 4, 8, 16], widths, &[0, 3072, 6144, 12_288])
}

fn many_rows_by_tiles(tokens: usize) -> Vec<Schedule> {
    listed(
        tokens,
        &[
            (512, 16, 512, 6144),
            (512, 8, 512, 6144),
            (512, 4, 512, 6144),
            (512, 32, 512, 6144),
            (512, 16, 256, 6144),
            (512, 8, 256, 6144),
            (256, 16, 512, 6144),
            (256, 32, 512, 6144),
            (1024, 8, 512, 6144),
            (1024, 16, 512, 6144),
            (1024, 8, 256, 6144),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use octet_backend::TokenBucket;

    use super::*;

    fn problem(weight: DataType, tokens: usize, is_gated: bool, scales: ScaleShape) -> GemmProblem {
        GemmProblem {
            rows: 256,
            bucket: TokenBucket::of(tokens),
            columns: 512,
            weight,
            activation: DataType::F32,
            output: DataType::F32,
            scales,
            has_bias: false,
            is_gated,
        }
    }

    #[test]
    fn every_problem_has_a_choice_of_different_names_that_fit_its_form() {
        let block = ScaleShape::Block { rows: 128, columns: 128 };
        let types = [DataType::F32, DataType::BF16, DataType::F8(octet_float8::Float8Format::E4M3)];
        for isa in Isa::available() {
            for weight in types {
                for bucket in TokenBucket::up_to(4096) {
                    for (is_gated, scales) in [(false, ScaleShape::None), (true, block)] {
                        let problem = problem(weight, bucket.tokens(), is_gated, scales);
                        let all = candidates(isa, &problem);
                        let names: HashSet<&String> = all.iter().map(|(name, _)| name).collect();
                        assert!(names.len() == all.len() && all.len() > 3, "{problem}: {names:?}");
                        let tile_rows = match form(isa, &problem).unwrap() {
                            Form::Vectors => VECTOR_ROWS,
                            Form::Tiles => MATRIX_ROWS,
                        };
                        for (name, schedule) in all {
                            assert!(schedule.rows_per_block.is_multiple_of(tile_rows), "{name}");
                            assert!(schedule.panels_per_task.is_power_of_two(), "{name}");
                            let most = MOST_BLOCK_COLUMNS.max(problem.columns);
                            assert!(schedule.columns_per_block <= most, "{name}");
                            assert!(!name.contains(','), "{name}");
                        }
                    }
                }
            }
        }
        let fnuz = DataType::F8(octet_float8::Float8Format::E4M3Fnuz);
        let isa = Isa::choose(Some("portable")).unwrap();
        assert!(candidates(isa, &problem(fnuz, 1, false, ScaleShape::Tensor)).is_empty());
    }
}
