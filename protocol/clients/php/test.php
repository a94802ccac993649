<?php
// What PHP has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: what is dropped, and handlers of signals that throw.
declare(strict_types=1);

require __DIR__ . '/src/Sidelock.php';

final class Alarm extends Exception
{
}

function check(bool $isSo, string $what): void
{
    if (!$isSo) {
        throw new LogicException("not so: $what");
    }
}

$other = new Sidelock\Client();
$lock = Sidelock\lock('dropped', wait: 0);
unset($lock);
check($other->acquire('dropped', wait: 5)->held(), 'a lock that is dropped is given back');
$lock = Sidelock\lock('dropped', wait: 0, owner: 'one');
$again = Sidelock\lock('dropped', wait: 0, owner: 'one');
unset($again);
Sidelock\Client::default()->call('ping');
check($lock->held() && count($other->call('inspect', ['name' => 'dropped'])['holders']) === 1, 'one of two is given back');
$wait = $other->begin('dropped');
check($other->call('inspect', ['name' => 'dropped'])['waiting'] === 1, 'it waits');
unset($wait);
check($other->call('inspect', ['name' => 'dropped'])['waiting'] === 0, 'a wait that is dropped is withdrawn');

// A handler that throws ends the wait, and leaves nothing of it behind.
pcntl_async_signals(true);
pcntl_signal(SIGALRM, fn () => throw new Alarm());
$parent = getmypid();
for ($round = 0; $round < 20; $round++) {
    $sender = pcntl_fork();
    if ($sender === 0) {
        usleep(20_000);
        posix_kill($parent, SIGALRM);
        posix_kill(getmypid(), SIGKILL); // Nothing of the parent's is to be torn down here.
    }
    $alarmed = false;
    try {
        $other->acquire('dropped');
    } catch (Alarm) {
        $alarmed = true;
    }
    pcntl_waitpid($sender, $status);
    check($alarmed, 'the alarm ends the wait');
}
// It comes while the signals are held back, and so right behind what must not be left in the middle: the lock is granted then.
$free = $lock;
unset($lock);
$lock = null;
try {
    Sidelock\whole(function () use ($other, $free, &$lock) {
        posix_kill(getmypid(), SIGALRM);
        $free->release();
        $lock = $other->acquire('dropped', wait: 5);
    });
    check(false, 'the handler is called');
} catch (Alarm) {
    check($lock !== null && $lock->held(), 'behind the grant');
}
unset($lock);
check($free->state === 'released' && Sidelock\lock('dropped', wait: 5)->held(), 'nothing is left of the waits');
