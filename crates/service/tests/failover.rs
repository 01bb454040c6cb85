//! One channel, several addresses: who is absent or stands by is passed over.
#![allow(clippy::unwrap_used)]

use quarry_service::{CancellationToken, ServiceChannel, ServiceError, channel, listen};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

/// A server that refuses every call with `code`, or answers; and its address.
async fn serve(code: Option<Code>, stop: CancellationToken) -> String {
    let (listener, bound) = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (reporter, _) = tonic_health::server::health_reporter();
    let service = HealthServer::with_interceptor(
        HealthService::from_health_reporter(reporter),
        move |call: Request<()>| match code {
            Some(code) => Err(Status::new(code, "not here")),
            None => Ok(call),
        },
    );
    let server = listen::server()
        .add_service(service)
        .serve_with_incoming_shutdown(listen::incoming(listener), stop.cancelled_owned());
    tokio::spawn(server);
    format!("http://{bound}")
}

/// An address where nobody listens.
async fn absent() -> String {
    let (listener, bound) = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    drop(listener);
    format!("http://{bound}")
}

/// How calls in a row end.
async fn calls(channel: ServiceChannel, n: usize) -> Vec<Code> {
    let mut client = HealthClient::new(channel);
    let mut codes = Vec::new();
    for _ in 0..n {
        let answer = client.check(HealthCheckRequest::default()).await;
        codes.push(answer.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    codes
}

#[tokio::test]
async fn the_absent_and_those_who_stand_by_are_passed_over_in_order() {
    let stop = CancellationToken::new();
    let standby = serve(Some(Code::Unavailable), stop.clone()).await;
    let leader = serve(None, stop.clone()).await;
    let urls = format!("{}, {standby},{leader}", absent().await);
    let (away, ok) = (Code::Unavailable, Code::Ok);

    let channel = ServiceChannel::lazy(&urls, None).unwrap();
    assert_eq!(channel.addresses(), 3);
    assert_eq!(calls(channel.clone(), 4).await, [away, away, ok, ok]);
    assert_eq!(calls(channel, 1).await, [ok], "clones know it too");
    // Connecting passes over the absent; who stands by is there.
    let channel = channel::connect("the server", &urls, None).await.unwrap();
    assert_eq!(calls(channel, 3).await, [away, ok, ok]);
    stop.cancel();
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let stop = CancellationToken::new();
    let strict = serve(Some(Code::Unauthenticated), stop.clone()).await;
    let open = serve(None, stop.clone()).await;
    let channel = ServiceChannel::lazy(&format!("{strict},{open}"), None).unwrap();
    assert_eq!(calls(channel, 3).await, [Code::Unauthenticated; 3]);
    stop.cancel();
}

#[tokio::test]
async fn bad_lists_and_absent_services_are_named() {
    for bad in ["", "http://a:1,", "http://a:1,,http://b:1", "http://a:1,b"] {
        let error = ServiceChannel::lazy(bad, None).unwrap_err();
        assert!(matches!(error, ServiceError::Address { .. }), "{error}");
    }
    let urls = format!("{},{}", absent().await, absent().await);
    let error = channel::connect("the coordinator", &urls, None)
        .await
        .unwrap_err();
    let words = error.to_string();
    assert!(words.contains(&urls), "{words}");
}
