/// How a server is spoken with by TLS: which files say whom to trust and who one is, and what is checked. Paths are as
/// `SystemText` has them.
public struct RedisTLSOptions: Hashable, Sendable {
  /// How much of the server's certificate is checked.
  public enum Verification: String, CaseIterable, Hashable, Sendable {
    /// Who signed it, its time and its name.
    case full
    /// Nothing: whoever answers is taken for the server.
    case none
  }

  /// The file of certificates, one of which has to stand behind the server's; empty: those of the system.
  public var caFile = ""
  /// The file of one's own certificate, and of those between it and a CA that the server knows; empty: none is shown.
  public var certificateFile = ""
  /// The file of the key of one's own certificate; empty: it stands in ``certificateFile``.
  public var keyFile = ""
  /// The name or address that the server's certificate must be for; empty: the host of the URL.
  public var serverName = ""
  /// How much of the server's certificate is checked.
  public var verification = Verification.full

  /// The system's CAs, no certificate of one's own, everything checked.
  public init() {}
}
