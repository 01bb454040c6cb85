//! Servers and channels over loopback: tokens, health, an absent service, and a
//! service that starts late or comes back.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quarry_service::auth::RequireToken;
use quarry_service::health::Health;
use quarry_service::{CancellationToken, ServiceError, Token, channel, listen};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

/// A guarded server (the health service stands in for any other) on `addr`.
async fn serve(addr: SocketAddr, token: Option<Token>, stop: CancellationToken) -> SocketAddr {
    let (listener, bound) = listen::bind(addr).await.unwrap();
    let (reporter, _) = tonic_health::server::health_reporter();
    let service = HealthServer::with_interceptor(
        HealthService::from_health_reporter(reporter),
        RequireToken::new(token),
    );
    let server = listen::server()
        .add_service(service)
        .serve_with_incoming_shutdown(listen::incoming(listener), stop.cancelled_owned());
    tokio::spawn(server);
    bound
}

async fn check(url: &str, token: Option<&Token>) -> Result<i32, tonic::Status> {
    let channel = channel::connect("the server", url, token).await.unwrap();
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await?;
    Ok(answer.into_inner().status)
}

#[tokio::test]
async fn calls_need_the_servers_token() {
    let stop = CancellationToken::new();
    let secret = token("0123456789abcdef");
    let addr = serve(
        "127.0.0.1:0".parse().unwrap(),
        Some(secret.clone()),
        stop.clone(),
    )
    .await;
    let url = format!("http://{addr}");
    check(&url, Some(&secret)).await.unwrap();
    let wrong = token("0123456789abcdeF");
    assert_eq!(
        check(&url, Some(&wrong)).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(
        check(&url, None).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    check(&addr.to_string(), Some(&secret)).await.unwrap();
    stop.cancel();
}

#[tokio::test]
async fn an_absent_service_is_named_with_its_address() {
    let (listener, addr) = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    drop(listener);
    let url = format!("http://{addr}");
    let error = channel::connect("the coordinator", &url, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("cannot reach the coordinator at {url}: ")),
        "{error}"
    );
    assert!(
        error.contains("refused") && error.contains("check that it is running"),
        "{error}"
    );
    for bad in [
        "http://",
        "https://localhost:1",
        "ftp://localhost:1",
        "localhost",
        "a b:1",
    ] {
        let error = channel::connect("the coordinator", bad, None)
            .await
            .unwrap_err();
        assert!(
            matches!(error, ServiceError::Address { .. }),
            "{bad}: {error}"
        );
    }
}

#[tokio::test]
async fn a_service_may_start_late_and_come_back() {
    let (listener, addr) = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    drop(listener);
    let first = CancellationToken::new();
    let late = tokio::spawn({
        let first = first.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            serve(addr, None, first).await
        }
    });
    let url = format!("http://{addr}");
    let patience = Duration::from_secs(20);
    let channel = channel::connect_within("the server", &url, None, patience)
        .await
        .unwrap();
    late.await.unwrap();
    let mut client = HealthClient::new(channel);
    client.check(HealthCheckRequest::default()).await.unwrap();

    first.cancel();
    let deadline = Instant::now() + patience;
    while client.check(HealthCheckRequest::default()).await.is_ok() {
        assert!(Instant::now() < deadline, "the server did not stop");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = CancellationToken::new();
    serve(addr, None, second.clone()).await;
    while client.check(HealthCheckRequest::default()).await.is_err() {
        assert!(Instant::now() < deadline, "the channel did not reconnect");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    second.cancel();
}

#[tokio::test]
async fn patience_ends() {
    let (listener, addr) = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    drop(listener);
    let url = format!("http://{addr}");
    let start = Instant::now();
    let patience = Duration::from_millis(300);
    let error = channel::connect_within("the server", &url, None, patience)
        .await
        .unwrap_err();
    assert!(matches!(error, ServiceError::Unreachable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn health_follows_readiness_and_stops_on_shutdown() {
    let stop = CancellationToken::new();
    let health = Health::serve("127.0.0.1:0".parse().unwrap(), stop.clone())
        .await
        .unwrap();
    let url = format!("http://{}", health.addr());
    assert_eq!(
        check(&url, None).await.unwrap(),
        ServingStatus::NotServing as i32
    );
    health.set_serving(true).await;
    assert_eq!(
        check(&url, None).await.unwrap(),
        ServingStatus::Serving as i32
    );
    health.set_serving(false).await;
    assert_eq!(
        check(&url, None).await.unwrap(),
        ServingStatus::NotServing as i32
    );
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), health.stopped())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_client_that_listens_on_does_not_keep_a_server_that_stops() {
    let stop = CancellationToken::new();
    let health = Health::serve("127.0.0.1:0".parse().unwrap(), stop.clone())
        .await
        .unwrap();
    let url = format!("http://{}", health.addr());
    let channel = channel::connect("the server", &url, None).await.unwrap();
    let request = HealthCheckRequest::default();
    let heard = HealthClient::new(channel).watch(request).await.unwrap();
    let mut heard = heard.into_inner();
    heard.message().await.unwrap().unwrap();
    stop.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(8), health.stopped());
    stopped.await.unwrap().unwrap();
    drop(heard);
}
