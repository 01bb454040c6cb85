//! `EncodeShard`: the passages of a shard to fp16 vectors, by the passage tower.

use crate::encoding::{Sequences, encode};
use crate::error::Result;
use crate::progress::Progress;
use crate::tasks::one;
use crate::workshop::Workshop;
use quarry_artifacts::layout;
use quarry_corpus::Embeddings;
use quarry_proto::{Role, Task, TaskOutput};

pub(crate) fn run(
    shop: &mut Workshop,
    task: &Task,
    number: u32,
    progress: &Progress,
) -> Result<TaskOutput> {
    let shard = shop.collection.shard(&shop.depot, number)?;
    let model = shop.models.get(&shop.depot, &task.checkpoint)?;
    let encoder = model.towers.passage();
    let sequences = Sequences {
        tokens: (0..shard.len()).map(|i| shard.tokens(i)).collect(),
        max_length: match shop.recipe.model.passage_length {
            0 => encoder.max_length(),
            length => length,
        },
        name: &|i| format!("passage {:?}", shard.id(i)),
    };
    let rows = encode(encoder, model, &sequences, progress)?;
    let (width, digest) = (
        encoder.dim().unsigned_abs() as usize,
        task.checkpoint.digest.as_str(),
    );
    let folder = layout::generation_embeddings(task.generation);
    let object = shop.depot.publish(
        &folder,
        &format!("shard-{number:05}"),
        "safetensors",
        |path| Embeddings::write(path, &rows, width, shard.first_row(), digest),
    )?;
    Ok(one(Role::Embeddings, object))
}
