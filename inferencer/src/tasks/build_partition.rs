//! `BuildPartition`: a faiss index over the vectors of a partition's shards.

use crate::error::{Result, refuse};
use crate::progress::Progress;
use crate::tasks::one;
use crate::tasks::partition::Rows;
use crate::workshop::Workshop;
use quarry_artifacts::{ObjectRef, layout};
use quarry_index::{FaissIndex, IndexSpec};
use quarry_proto::{Role, Task, TaskOutput};

pub(crate) fn run(
    shop: &mut Workshop,
    task: &Task,
    partition: u32,
    embeddings: &[ObjectRef],
    progress: &Progress,
) -> Result<TaskOutput> {
    if shop.recipe.index.kind == "exact" {
        return refuse(
            "index.kind is \"exact\", which needs no index; the coordinator has another recipe",
        );
    }
    let passages = Rows::open(&shop.depot, embeddings, &task.checkpoint)?;
    progress.begin(passages.len());
    let index = FaissIndex::build(
        &spec(&shop.recipe.index),
        passages.parts(),
        shop.recipe.seed,
    )?;
    progress.advance(passages.len())?;
    let folder = layout::generation_index(task.generation);
    let stem = format!("partition-{partition:05}");
    let object = shop
        .depot
        .publish(&folder, &stem, "faiss", |path| index.write(path))?;
    Ok(one(Role::Index, object))
}

/// The recipe's index; search parameters that its kind does not have stay out.
fn spec(index: &quarry_recipe::Index) -> IndexSpec {
    let lists = inverted_lists(&index.kind);
    let graph = index.kind.contains("HNSW");
    IndexSpec {
        nprobe: lists.map(|lists| index.nprobe.min(lists)),
        ef_search: graph.then_some(index.ef_search),
        ..IndexSpec::new(index.kind.as_str())
    }
}

/// Number of inverted lists in a factory string such as `OPQ16,IVF1024,PQ16`.
fn inverted_lists(factory: &str) -> Option<usize> {
    let rest = &factory[factory.find("IVF")? + 3..];
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_parameters_follow_the_kind() {
        let of = |kind: &str| {
            let spec = spec(&quarry_recipe::Index {
                kind: kind.to_owned(),
                ..quarry_recipe::Index::default()
            });
            spec.check().unwrap();
            (spec.nprobe, spec.ef_search)
        };
        assert_eq!(of("Flat"), (None, None));
        assert_eq!(of("IVF1024,Flat"), (Some(64), None));
        assert_eq!(of("IVF16,PQ8"), (Some(16), None));
        assert_eq!(of("HNSW32"), (None, Some(256)));
    }
}
