//! Equal questions of one split share what is relevant to them.

use quarry_corpus::Format;

use crate::{Prepared, collection, options};

#[test]
fn equal_questions_know_each_others_positives_in_their_own_split_only() {
    let dir = collection(&[
        (
            "corpus.jsonl",
            b"{\"_id\":\"a\",\"text\":\"a\"}\n{\"_id\":\"b\",\"text\":\"b\"}\n{\"_id\":\"c\",\"text\":\"c\"}\n{\"_id\":\"d\",\"text\":\"d\"}\n",
        ),
        (
            "queries.jsonl",
            b"{\"_id\":\"q0\",\"text\":\"who is it\"}\n{\"_id\":\"q1\",\"text\":\"Who is it\"}\n{\"_id\":\"q2\",\"text\":\" who  is it\"}\n{\"_id\":\"q3\",\"text\":\"who is it\"}\n{\"_id\":\"q4\",\"text\":\"what\"}\n",
        ),
        // q2 grades a relevant passage of q0 with 0; q3 asks the same, but in another split.
        (
            "qrels/train.tsv",
            b"q0\td\t1\nq0\ta\t1\nq1\tb\t1\nq2\ta\t1\nq2\tb\t0\nq4\td\t1\nq4\tc\t2\n",
        ),
        ("qrels/dev.tsv", b"q3\tc\t1\n"),
    ]);
    let prepared = Prepared::new(dir.path(), &options(Format::Beir, &["train", "dev"]));
    let train = prepared.queries("train");
    let known: Vec<Vec<u32>> = (0..train.len()).map(|q| train.known_positives(q)).collect();
    assert_eq!(known, [vec![0, 3], vec![1], vec![0, 3], vec![2, 3]]);
    // What each is judged by stays as it is, in the order of the qrels.
    assert_eq!(train.positives(0).collect::<Vec<_>>(), [3, 0]);
    assert_eq!(train.positives(2).collect::<Vec<_>>(), [0]);
    assert_eq!(train.positives(3).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(prepared.queries("dev").known_positives(0), [2]);
}
