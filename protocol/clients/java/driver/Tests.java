import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Lock;
import sidelock.Options;
import sidelock.Sidelock;
import sidelock.SidelockException;

/** What Java has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: interrupts, long times, and text that is none. */
public final class Tests {
  private static void check(boolean isSo, String what) {
    if (!isSo) throw new AssertionError(what);
  }

  private interface Attempt {
    void run() throws Exception;
  }

  /** Runs it in an interrupted thread; whether the thread still is afterwards, unless it says so by its exception. */
  private static String interrupted(Attempt attempt) throws Exception {
    Thread.currentThread().interrupt();
    try {
      attempt.run();
      return Thread.interrupted() ? "interrupted" : "not interrupted";
    } catch (InterruptedException told) {
      return Thread.interrupted() ? "told twice" : "told";
    }
  }

  public static void main(String[] arguments) throws Exception {
    try (Sidelock fresh = new Sidelock(); Sidelock sidelock = new Sidelock(); Sidelock other = new Sidelock()) {
      check(interrupted(() -> fresh.asLock("fresh").lock()).equals("interrupted"), "connects in an interrupted thread");
      Lock lock = sidelock.asLock("lock");
      check(interrupted(lock::lock).equals("interrupted"), "lock() is not interrupted");
      check(interrupted(lock::unlock).equals("interrupted"), "unlock() is not interrupted");
      check(interrupted(() -> check(lock.tryLock(), "it is free")).equals("interrupted"), "tryLock() is not interrupted");
      lock.unlock();
      check(interrupted(lock::lockInterruptibly).equals("told"), "lockInterruptibly() is");
      check(interrupted(() -> lock.tryLock(1, TimeUnit.SECONDS)).equals("told"), "tryLock(time) is");
      for (TimeUnit unit : TimeUnit.values()) {
        check(lock.tryLock(Long.MAX_VALUE, unit), "a very long time");
        lock.unlock();
        check(lock.tryLock(Long.MIN_VALUE, unit), "less than no time is a try");
        lock.unlock();
      }
      Thread main = Thread.currentThread();
      var held = other.acquire("lock");
      Thread helper = new Thread(() -> {
        main.interrupt();
        held.release();
      });
      helper.start();
      lock.lock();
      check(Thread.interrupted(), "told afterwards");
      helper.join();
      lock.unlock();
      check(interrupted(() -> {
        try (var scope = other.acquire(Options.defaults().wait(Duration.ofSeconds(5)), "scope")) {
          throw new IllegalStateException("not withdrawn: " + scope);
        } catch (SidelockException.Cancelled withdrawn) {
          // As documented.
        }
      }).equals("interrupted"), "an interrupt withdraws acquire()");
      try (var none = sidelock.acquire("\ud800")) {
        throw new AssertionError("half of a pair is no text: " + none);
      } catch (SidelockException refused) {
        check(refused.reason().equals("invalid_params"), refused.reason());
      }
    }
  }
}
