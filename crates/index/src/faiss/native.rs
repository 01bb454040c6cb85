//! The thin layer over faiss: an owned index, shared searches, the number of OpenMP threads.
//!
//! `unsafe` is here because the `faiss` crate asks for `&mut` to search, hands out no error for slices of the wrong
//! length, and leaves OpenMP alone.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::path::Path;

use ::faiss::index::autotune::ParameterSpace;
use ::faiss::index::io::{read_index, write_index};
use ::faiss::index::{IndexImpl, index_factory};
use ::faiss::{Index, MetricType};
use faiss_sys::{faiss_Index_search, faiss_get_last_error};

use crate::IndexError;

unsafe extern "C" {
    // Of the OpenMP runtime that faiss is linked with.
    fn omp_get_max_threads() -> c_int;
    fn omp_set_num_threads(threads: c_int);
}

/// An inner-product index. `IndexImpl` frees the C++ object and is `Send + Sync` for CPU indexes.
pub(super) struct Native(IndexImpl);

impl Native {
    /// An empty index of a factory description.
    pub fn new(description: &str, dim: usize) -> Result<Native, IndexError> {
        let refuse = |reason: String| IndexError::Factory {
            factory: description.to_owned(),
            reason,
        };
        let dim =
            u32::try_from(dim).map_err(|_| refuse("the dimension is too large".to_owned()))?;
        index_factory(dim, description, MetricType::InnerProduct)
            .map(Native)
            .map_err(|e| refuse(one_line(&e)))
    }

    /// Reads faiss's own format.
    pub fn read(path: &Path) -> Result<Native, IndexError> {
        let name = path.to_string_lossy();
        let native = read_index(name.as_ref())
            .map(Native)
            .map_err(failed(format!("read {name}")))?;
        match native.0.metric_type() {
            MetricType::InnerProduct => Ok(native),
            MetricType::L2 => Err(IndexError::Corrupt {
                path: path.to_owned(),
                reason: "it ranks by distance".to_owned(),
            }),
        }
    }

    /// Writes faiss's own format.
    pub fn write(&self, path: &Path) -> Result<(), IndexError> {
        let name = path.to_string_lossy();
        write_index(&self.0, name.as_ref()).map_err(failed(format!("write {name}")))
    }

    /// Number of vectors.
    pub fn rows(&self) -> usize {
        self.0.ntotal() as usize
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.0.d() as usize
    }

    /// Whether vectors can be added.
    pub fn is_trained(&self) -> bool {
        self.0.is_trained()
    }

    /// Trains on vectors `[N, D]`.
    pub fn train(&mut self, values: &[f32]) -> Result<(), IndexError> {
        self.0.train(values).map_err(failed("train".to_owned()))
    }

    /// Adds vectors `[N, D]`.
    pub fn add(&mut self, values: &[f32]) -> Result<(), IndexError> {
        self.0.add(values).map_err(failed("add rows".to_owned()))
    }

    /// Sets a search parameter of faiss's `ParameterSpace`.
    pub fn set_parameter(&mut self, name: &str, value: usize) -> Result<(), IndexError> {
        let space = ParameterSpace::new().map_err(failed("list its parameters".to_owned()))?;
        space
            .set_index_parameter(&self.0, name, value as f64)
            .map_err(failed(format!("set {name} to {value}")))
    }

    /// Scores and labels `[Q, k]` for queries `[Q, D]`; a label of −1 is a missing result.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<(Vec<f32>, Vec<i64>), IndexError> {
        let count = queries.len() / self.dim();
        assert_eq!(
            queries.len(),
            count * self.dim(),
            "the caller checks that queries are whole vectors"
        );
        let mut scores = vec![0.0; count * k];
        let mut labels = vec![-1; count * k];
        // SAFETY: the pointer is a live index, `queries` holds count × dim floats and both outputs count × k values,
        // as faiss_Index_search reads and writes; a search does not change a CPU index, so sharing it is sound.
        let status = unsafe {
            faiss_Index_search(
                self.0.inner_ptr(),
                count as i64,
                queries.as_ptr(),
                k as i64,
                scores.as_mut_ptr(),
                labels.as_mut_ptr(),
            )
        };
        match status {
            0 => Ok((scores, labels)),
            _ => Err(IndexError::Faiss {
                what: "search".to_owned(),
                reason: last_error(),
            }),
        }
    }
}

/// faiss's messages span lines and start with a place in its source.
fn one_line(error: &impl ToString) -> String {
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn failed(what: String) -> impl FnOnce(::faiss::error::Error) -> IndexError {
    move |error| IndexError::Faiss {
        what,
        reason: one_line(&error),
    }
}

/// The message of this thread's last failed call.
fn last_error() -> String {
    // SAFETY: null or a NUL-terminated string that lives until the thread's next faiss call.
    let message = unsafe {
        let message = faiss_get_last_error();
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    message.map_or_else(
        || "it gave no reason".to_owned(),
        |message| one_line(&message),
    )
}

/// Gives the calling thread's OpenMP regions `threads` threads until dropped. torch shares the setting.
pub(super) fn limit_threads(threads: usize) -> ThreadLimit {
    let threads = c_int::try_from(threads).unwrap_or(c_int::MAX);
    // SAFETY: both calls only read and set the calling thread's OpenMP setting.
    unsafe {
        let before = omp_get_max_threads();
        omp_set_num_threads(threads);
        ThreadLimit { before }
    }
}

/// Restores the number of threads when dropped.
pub(super) struct ThreadLimit {
    before: c_int,
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        // SAFETY: as in `limit_threads`.
        unsafe { omp_set_num_threads(self.before) }
    }
}
