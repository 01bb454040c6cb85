//! What a task produced: new objects, counts of what was dropped, dev metrics.

use crate::convert::{ConversionError, required};
use crate::v1;
use quarry_artifacts::ObjectRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Passage vectors of a shard.
    Embeddings,
    /// Query vectors of a block.
    QueryEmbeddings,
    /// Search structure of a partition.
    Index,
    /// Best passages of one partition for a block.
    Candidates,
    /// Filtered negatives of a block.
    Negatives,
    /// TREC run of the dev split.
    Run,
    /// Metrics of the dev split, mean and per query.
    Metrics,
}

/// The result of one task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskOutput {
    /// New objects and what each is for.
    pub outputs: Vec<(Role, ObjectRef)>,
    /// What was dropped or fell short, by kind (law 8).
    pub counts: BTreeMap<String, u64>,
    /// Dev metrics by name; only from an evaluating task, never NaN.
    pub metrics: BTreeMap<String, f64>,
}

impl TaskOutput {
    /// The objects of one role, in order.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &ObjectRef> {
        self.outputs
            .iter()
            .filter(move |(r, _)| *r == role)
            .map(|(_, object)| object)
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = ConversionError;

    fn try_from(wire: v1::Role) -> Result<Self, ConversionError> {
        Ok(match wire {
            v1::Role::Unspecified => {
                let reason = "is unspecified; say what the object is for";
                return Err(ConversionError::new("Output", "role", reason));
            }
            v1::Role::Embeddings => Self::Embeddings,
            v1::Role::QueryEmbeddings => Self::QueryEmbeddings,
            v1::Role::Index => Self::Index,
            v1::Role::Candidates => Self::Candidates,
            v1::Role::Negatives => Self::Negatives,
            v1::Role::Run => Self::Run,
            v1::Role::Metrics => Self::Metrics,
        })
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Embeddings => Self::Embeddings,
            Role::QueryEmbeddings => Self::QueryEmbeddings,
            Role::Index => Self::Index,
            Role::Candidates => Self::Candidates,
            Role::Negatives => Self::Negatives,
            Role::Run => Self::Run,
            Role::Metrics => Self::Metrics,
        }
    }
}

impl TryFrom<v1::TaskOutput> for TaskOutput {
    type Error = ConversionError;

    fn try_from(wire: v1::TaskOutput) -> Result<Self, ConversionError> {
        let output = |o: v1::Output| {
            let role = v1::Role::try_from(o.role).map_err(|_| {
                let reason = format!("is {}, which this version does not know", o.role);
                ConversionError::new("Output", "role", reason)
            })?;
            let object = required(o.object, "Output", "object")?;
            Ok((role.try_into()?, object.try_into()?))
        };
        if let Some((name, _)) = wire.metrics.iter().find(|(_, v)| !v.is_finite()) {
            let reason = format!("{name} is not a finite number");
            return Err(ConversionError::new("TaskOutput", "metrics", reason));
        }
        Ok(Self {
            outputs: wire
                .outputs
                .into_iter()
                .map(output)
                .collect::<Result<_, ConversionError>>()?,
            counts: wire.counts.into_iter().collect(),
            metrics: wire.metrics.into_iter().collect(),
        })
    }
}

impl From<TaskOutput> for v1::TaskOutput {
    fn from(output: TaskOutput) -> Self {
        Self {
            outputs: output
                .outputs
                .into_iter()
                .map(|(role, object)| v1::Output {
                    role: v1::Role::from(role).into(),
                    object: Some(object.into()),
                })
                .collect(),
            counts: output.counts.into_iter().collect(),
            metrics: output.metrics.into_iter().collect(),
        }
    }
}
