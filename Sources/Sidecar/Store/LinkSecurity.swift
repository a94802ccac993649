import Dispatch
import NIOCore
import RESP
import RedisTLS

/// What connections by TLS need, from files that are read anew for each: whoever replaces them need not tell the daemon.
final class LinkSecurity {
  /// As they are in force now.
  private let options: () -> RedisTLSOptions
  private let reading: LinkReading<RedisTLSOptions, TLSClient>
  /// Why no connection can be made by TLS; nil where the last reading was good.
  private(set) var failure: String?
  /// What the last connection was made with.
  private(set) var client: TLSClient?

  /// - Parameter begin: reads the files that some options name.
  init(
    loop: any EventLoop, options: @escaping () -> RedisTLSOptions,
    begin: @escaping (RedisTLSOptions) -> EventLoopFuture<TLSClient>
  ) {
    self.options = options
    reading = LinkReading(loop: loop, begin: begin)
  }

  /// - Parameter host: of the URL.
  convenience init(loop: any EventLoop, host: String, options: @escaping () -> RedisTLSOptions) {
    self.init(loop: loop, options: options) { options in
      let promise = loop.makePromise(of: TLSClient.self)
      DispatchQueue.global().async {
        promise.completeWith(Result { try TLSClient(TLSMaterial(options), host: host) })
      }
      return promise.futureResult
    }
  }

  /// Whether anything of the server's certificate was checked when the last connection was made.
  var verifies: Bool { client?.verifies ?? true }

  /// Reads the files. The completion is called once; nil: ``failure`` says why they cannot be used.
  func prepare(timeoutMilliseconds: Int64, _ completion: @escaping (TLSClient?) -> Void) {
    reading.read(options(), timeoutMilliseconds: timeoutMilliseconds) { result in
      switch result {
      case .success(let client)?: (self.client, self.failure) = (client, nil)
      case .failure(let error)?: (self.client, self.failure) = (nil, "\(error)")
      case nil:
        (self.client, self.failure) = (nil, "the files for TLS could not be read within \(timeoutMilliseconds) ms")
      }
      completion(self.client)
    }
  }
}
