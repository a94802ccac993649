import Glibc

/// The accounts of this host.
package enum Users {
  private static let bytesMax = 1 << 20

  /// The number of a user, who may be given by number, too; nil when there is none of that name.
  package static func number(of user: String) -> Int64? {
    if let number = UInt32(user) { return Int64(number) }
    return lookUp { entry, buffer, count, found in
      getpwnam_r(user, entry, buffer, count, found)
    } body: {
      Int64($0.pw_uid)
    }
  }

  /// The name of a user; nil when there is none.
  package static func name(of number: Int64) -> String? {
    guard let uid = uid_t(exactly: number) else { return nil }
    return lookUp { entry, buffer, count, found in
      getpwuid_r(uid, entry, buffer, count, found)
    } body: {
      String(cString: $0.pw_name)
    }
  }

  /// The name of whoever runs this, or the number where there is none.
  package static var ownName: String { name(of: Int64(geteuid())) ?? "\(geteuid())" }

  private static func lookUp<R>(
    _ ask: (
      UnsafeMutablePointer<passwd>, UnsafeMutablePointer<CChar>, Int,
      UnsafeMutablePointer<UnsafeMutablePointer<passwd>?>
    ) -> CInt, body: (passwd) -> R
  ) -> R? {
    var count = 1024
    while count <= bytesMax {
      var buffer = [CChar](repeating: 0, count: count)
      var entry = passwd()
      var found: UnsafeMutablePointer<passwd>?
      let result: (CInt, R?) = buffer.withUnsafeMutableBufferPointer { space in
        guard let base = space.baseAddress else { return (EINVAL, nil) }
        let status = ask(&entry, base, count, &found)
        return (status, found.map { body($0.pointee) })
      }
      guard result.0 == ERANGE else { return result.1 }
      count *= 4
    }
    return nil
  }
}
