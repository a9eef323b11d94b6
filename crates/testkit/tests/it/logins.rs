//! Who gets in, how often, and what a refusal looks like.

use std::sync::atomic::Ordering;

use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use testkit::sftp::{Authentication, Behaviour, LoginLimit, LoginRefusal, SftpServer};

use crate::raw::{Raw, connect, with_key};

async fn server(behaviour: Behaviour) -> SftpServer {
    SftpServer::builder().in_memory().behaviour(behaviour).start().await.unwrap()
}

#[tokio::test]
async fn a_key_alone_is_a_partial_success_where_both_are_required() {
    let server = server(Behaviour { authentication: Authentication::KeyThenPassword, ..Behaviour::default() }).await;
    let mut client = connect(&server).await;
    assert!(!client.authenticate_password(server.user(), server.password()).await.unwrap().success());
    let AuthResult::Failure { partial_success, remaining_methods } = with_key(&server, &mut client).await else { panic!() };
    assert!(partial_success);
    assert_eq!(&*remaining_methods, &[russh::MethodKind::Password]);
    assert!(client.authenticate_password(server.user(), server.password()).await.unwrap().success());
    assert_eq!(server.recorder().attempts.credentials(), 3);
}

#[tokio::test]
async fn a_question_is_answered_with_the_password() {
    let server = server(Behaviour { authentication: Authentication::Question, ..Behaviour::default() }).await;
    let mut client = connect(&server).await;
    let asked = client.authenticate_keyboard_interactive_start(server.user(), None).await.unwrap();
    assert!(matches!(asked, KeyboardInteractiveAuthResponse::InfoRequest { .. }));
    let answer = client.authenticate_keyboard_interactive_respond(vec![server.password().to_owned()]).await.unwrap();
    assert!(matches!(answer, KeyboardInteractiveAuthResponse::Success));
}

#[tokio::test]
async fn wrong_credentials_are_counted_and_refused() {
    let server = server(Behaviour::default()).await;
    let mut client = connect(&server).await;
    assert!(!client.authenticate_password(server.user(), "wrong").await.unwrap().success());
    assert!(!client.authenticate_password("someone", server.password()).await.unwrap().success());
    assert_eq!(server.recorder().attempts.credentials(), 2);
    assert_eq!(server.recorder().logins.highest(), 0);
}

#[tokio::test]
async fn one_login_too_many_is_refused_in_each_of_the_three_ways() {
    for refusal in [LoginRefusal::Authentication, LoginRefusal::Channel, LoginRefusal::Disconnect] {
        let server = server(Behaviour { logins: Some(LoginLimit { count: 2, refusal }), ..Behaviour::default() }).await;
        let first = Raw::start(&server).await;
        let _second = Raw::start(&server).await;
        let mut third = connect(&server).await;
        match refusal {
            LoginRefusal::Authentication => assert!(!with_key(&server, &mut third).await.success()),
            LoginRefusal::Channel => {
                assert!(with_key(&server, &mut third).await.success());
                assert!(matches!(third.channel_open_session().await, Err(russh::Error::ChannelOpenFailure(_))));
            }
            LoginRefusal::Disconnect => {
                with_key(&server, &mut third).await;
                assert!(third.channel_open_session().await.is_err());
            }
        }
        assert_eq!((server.recorder().logins.highest(), server.recorder().refused_logins.load(Ordering::SeqCst)), (2, 1));
        drop(third);
        drop(first);
        // The server learns of a closed connection when its socket tells; wait for that and not for a time.
        while server.recorder().logins.now() > 1 {
            tokio::task::yield_now().await;
        }
        Raw::start(&server).await;
    }
}

#[tokio::test]
async fn channels_of_one_connection_are_limited() {
    let server = server(Behaviour { max_channels: Some(1), ..Behaviour::default() }).await;
    let mut client = connect(&server).await;
    with_key(&server, &mut client).await;
    let _one = Raw::on(client.channel_open_session().await.unwrap()).await;
    assert!(matches!(client.channel_open_session().await, Err(russh::Error::ChannelOpenFailure(_))));
}
