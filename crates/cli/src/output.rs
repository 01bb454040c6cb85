//! The files that vectors of texts become: a safetensors matrix and, beside it, the ids.
//!
//! Owns: the checks before the work, and that a name holds a complete file or what was there
//! before. Refuses: making vectors.

use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The two files of one encoding.
pub struct Output {
    vectors: PathBuf,
    ids: PathBuf,
}

impl Output {
    /// Refuses, before the slow part, what cannot be written and what would replace the input.
    ///
    /// # Errors
    /// What was refused, and what to give instead.
    pub fn new(input: &Path, output: &Path) -> Result<Self> {
        let mut ids = output.as_os_str().to_owned();
        ids.push(".ids");
        let both = Self {
            vectors: output.to_owned(),
            ids: PathBuf::from(ids),
        };
        // An input that is not there is named when it is opened.
        let read = input.canonicalize().ok();
        for path in [&both.vectors, &both.ids] {
            if path.is_dir() {
                bail!(
                    "cannot write {}: it is a folder; name a file with --output",
                    path.display()
                );
            }
            if read.is_some() && path.canonicalize().ok() == read {
                bail!(
                    "{} would replace the texts of --input; choose another --output",
                    path.display()
                );
            }
        }
        both.neighbour()?;
        Ok(both)
    }

    /// A file beside the two, gone with the value, and readable by whom any new file is: the permissions that the
    /// tempfile crate chooses are its owner's alone.
    fn neighbour(&self) -> Result<NamedTempFile> {
        let folder = match self.vectors.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        tempfile::Builder::new()
            .prefix(".writing-")
            .make_in(folder, |candidate| File::create_new(candidate))
            .with_context(|| self.failed())
    }

    fn failed(&self) -> String {
        format!(
            "cannot write {}; choose a writable --output with room",
            self.vectors.display()
        )
    }

    /// Writes both under their names, complete; `rows` are `[N · width]`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, model: &str, width: usize, ids: &[String], rows: &[f32]) -> Result<()> {
        let failed = || self.failed();
        let shape = vec![ids.len(), width];
        let view = TensorView::new(Stored::F32, shape, bytemuck::cast_slice(rows))?;
        let metadata = HashMap::from([("model".to_owned(), model.to_owned())]);
        let vectors = self.neighbour()?;
        let new = vectors.as_file().metadata().with_context(failed)?;
        safetensors::serialize_to_file([("embeddings", view)], Some(metadata), vectors.path())
            .with_context(failed)?;
        // safetensors puts a file of the tempfile crate in the place of ours.
        std::fs::set_permissions(vectors.path(), new.permissions()).with_context(failed)?;
        let mut names = self.neighbour()?;
        names
            .write_all((ids.join("\n") + "\n").as_bytes())
            .with_context(failed)?;
        for (file, path) in [(vectors, &self.vectors), (names, &self.ids)] {
            file.persist(path)
                .map_err(|failure| failure.error)
                .with_context(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_input_is_not_replaced_by_whatever_way_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("below")).unwrap();
        std::fs::write(path("texts.jsonl"), "texts").unwrap();
        std::fs::write(path("vectors.ids"), "texts").unwrap();
        symlink(path("texts.jsonl"), path("link")).unwrap();
        for (input, output) in [
            ("texts.jsonl", "texts.jsonl"),
            ("texts.jsonl", "below/../texts.jsonl"),
            ("texts.jsonl", "link"),
            ("link", "texts.jsonl"),
            ("vectors.ids", "vectors"),
        ] {
            let refused = Output::new(&path(input), &path(output)).err().unwrap();
            let message = refused.to_string();
            assert!(
                message.contains("would replace the texts of --input"),
                "{message}"
            );
        }
        assert!(Output::new(&path("texts.jsonl"), &path("vectors")).is_ok());
        assert_eq!(std::fs::read(path("texts.jsonl")).unwrap(), b"texts");
    }

    #[test]
    fn an_output_that_cannot_be_written_is_refused_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("texts.jsonl");
        for (output, reason) in [
            (folder.path().join("missing/vectors"), "writable --output"),
            (folder.path().to_owned(), "it is a folder"),
        ] {
            let refused = Output::new(&input, &output).err().unwrap();
            let message = refused.to_string();
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn both_files_get_the_permissions_of_any_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mode = |name: &str| {
            let metadata = std::fs::metadata(path(name)).unwrap();
            metadata.permissions().mode()
        };
        std::fs::write(path("new"), "").unwrap();
        let output = Output::new(&path("texts.jsonl"), &path("vectors")).unwrap();
        let ids = ["a".to_owned(), "b".to_owned()];
        output.write("model", 1, &ids, &[0.5, 0.25]).unwrap();
        assert_eq!(mode("vectors"), mode("new"));
        assert_eq!(mode("vectors.ids"), mode("new"));
        assert_eq!(std::fs::read(path("vectors.ids")).unwrap(), b"a\nb\n");
        assert!(
            std::fs::read(path("vectors"))
                .unwrap()
                .ends_with(&[0, 0, 0, 63, 0, 0, 128, 62])
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
