//! `EncodeQueries`: the queries of a block to fp16 vectors, by the query tower.

use crate::encoding::{Sequences, encode};
use crate::error::Result;
use crate::progress::Progress;
use crate::tasks::{one, stem};
use crate::workshop::Workshop;
use quarry_artifacts::layout;
use quarry_corpus::Embeddings;
use quarry_proto::{Block, Role, Task, TaskOutput};

pub(crate) fn run(
    shop: &mut Workshop,
    task: &Task,
    block: &Block,
    progress: &Progress,
) -> Result<TaskOutput> {
    let (queries, range) = shop.collection.block(&shop.depot, block)?;
    let model = shop.models.get(&shop.depot, &task.checkpoint)?;
    let encoder = model.towers.query();
    let sequences = Sequences {
        tokens: range.clone().map(|i| queries.tokens(i)).collect(),
        max_length: shop.recipe.model.query_length,
        name: &|i| {
            format!(
                "query {:?} of split {}",
                queries.id(range.start + i),
                block.split
            )
        },
    };
    let rows = encode(encoder, model, &sequences, progress)?;
    let (width, digest) = (
        encoder.dim().unsigned_abs() as usize,
        task.checkpoint.digest.as_str(),
    );
    let folder = layout::generation_embeddings(task.generation);
    let object = shop.depot.publish(
        &folder,
        &format!("queries-{}", stem(block)),
        "safetensors",
        |path| Embeddings::write(path, &rows, width, block.first_query, digest),
    )?;
    Ok(one(Role::QueryEmbeddings, object))
}
