import Glibc

/// A thread of its own for work that may block, and for which nobody waits.
public enum DetachedThread {
  private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  /// Starts a thread that does `body` and ends; it has the caller's signals blocked.
  ///
  /// - Returns: false when none can be started, with the reason in `errno`; then nothing is done.
  public static func start(_ body: @escaping @Sendable () -> Void) -> Bool {
    let work = Unmanaged.passRetained(Work(body))
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { argument in
        if let argument { Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body() }
        return nil
      }, work.toOpaque())
    guard result == 0 else {
      work.release()
      errno = result
      return false
    }
    pthread_detach(thread)
    return true
  }
}
