import Dispatch
import NIOCore
import RESP
import RedisTLS

/// What connections by TLS need, from files that are read anew for each: whoever replaces them need not tell the daemon.
///
/// Reading may block for ever, so it is done on another thread: one reading at a time, and another one when other files are
/// named meanwhile.
final class LinkSecurity {
  private let loop: any EventLoop
  private let host: String
  /// As they are in force now.
  private let options: () -> RedisTLSOptions
  private var reading: (options: RedisTLSOptions, client: EventLoopFuture<TLSClient>)?
  /// Why no connection can be made by TLS; nil where the last reading was good.
  private(set) var failure: String?
  /// What the last connection was made with.
  private(set) var client: TLSClient?

  init(loop: any EventLoop, host: String, options: @escaping () -> RedisTLSOptions) {
    self.loop = loop
    self.host = host
    self.options = options
  }

  /// Whether anything of the server's certificate was checked when the last connection was made.
  var verifies: Bool { client?.verifies ?? true }

  /// Reads the files. The completion is called once; nil: ``failure`` says why they cannot be used.
  func prepare(timeoutMilliseconds: Int64, _ completion: @escaping (TLSClient?) -> Void) {
    var completion: ((TLSClient?) -> Void)? = completion
    let finish = { (client: TLSClient?, failure: String?) in
      guard let done = completion.take() else { return }
      (self.client, self.failure) = (client, failure)
      done(client)
    }
    let timeout = loop.assumeIsolated().scheduleTask(in: .milliseconds(timeoutMilliseconds)) {
      finish(nil, "the files for TLS could not be read within \(timeoutMilliseconds) ms")
    }
    read().assumeIsolated().whenComplete { result in
      timeout.cancel()
      switch result {
      case .success(let client): finish(client, nil)
      case .failure(let error): finish(nil, "\(error)")
      }
    }
  }

  private func read() -> EventLoopFuture<TLSClient> {
    let (options, host) = (options(), host)
    if let reading, reading.options == options { return reading.client }
    let promise = loop.makePromise(of: TLSClient.self)
    DispatchQueue.global().async {
      promise.completeWith(Result { try TLSClient(TLSMaterial(options), host: host) })
    }
    reading = (options, promise.futureResult)
    promise.futureResult.assumeIsolated().whenComplete { _ in
      if self.reading?.client === promise.futureResult { self.reading = nil }
    }
    return promise.futureResult
  }
}
