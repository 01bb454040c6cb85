//! The vectors a search works on: a partition's passages and a block's queries.
//!
//! Refuses parts that leave a gap, overlap or differ in width: a search over
//! them would be short or mixed without anybody noticing.

use crate::depot::{Depot, Held};
use crate::error::{Result, refuse};
use half::slice::HalfFloatSliceExt;
use quarry_artifacts::{CheckpointRef, ObjectRef};
use quarry_corpus::Embeddings;
use quarry_index::Part;
use std::ops::Range;

/// Neighbouring embedding files as one range of rows, mapped.
pub(crate) struct Rows {
    files: Vec<Held<Embeddings>>,
    parts: Vec<Part>,
    range: Range<u32>,
    width: usize,
}

impl Rows {
    /// Maps `objects`, which follow each other and stem from `checkpoint`.
    pub fn open(depot: &Depot, objects: &[ObjectRef], checkpoint: &CheckpointRef) -> Result<Self> {
        let mut rows = Self {
            files: Vec::with_capacity(objects.len()),
            parts: Vec::with_capacity(objects.len()),
            range: 0..0,
            width: 0,
        };
        for object in objects {
            rows.push(depot.embeddings(object, checkpoint)?, object)?;
        }
        if rows.parts.is_empty() {
            return refuse("the task names no embeddings; the coordinator is of another version");
        }
        Ok(rows)
    }

    fn push(&mut self, file: Held<Embeddings>, object: &ObjectRef) -> Result<()> {
        let (first, path) = (file.first_row(), &object.path);
        if self.parts.is_empty() {
            (self.range, self.width) = (first..first, file.dim());
        }
        if first != self.range.end {
            let due = self.range.end;
            return refuse(format!(
                "embeddings {path} begin at row {first} where row {due} is due; encode them again"
            ));
        }
        if file.dim() != self.width {
            let (found, width) = (file.dim(), self.width);
            return refuse(format!(
                "embeddings {path} have width {found} and those before them {width}; encode them with one checkpoint"
            ));
        }
        self.range.end += file.len() as u32;
        self.parts.push(Part::from_embeddings(file.clone())?);
        self.files.push(file);
        Ok(())
    }

    /// The parts, in order of rows; cheap to clone.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Rows covered.
    pub fn range(&self) -> Range<u32> {
        self.range.clone()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Width `D` of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All rows in f32, `[N · D]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut all = vec![0f32; self.len() * self.width];
        let mut rest = all.as_mut_slice();
        for part in &self.parts {
            let (head, tail) = rest.split_at_mut(part.values().len());
            part.values().convert_to_f32_slice(head);
            rest = tail;
        }
        all
    }
}
