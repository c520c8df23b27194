package session

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// writerVariable names the file in which a child of the test stores sessions until it is killed.
const writerVariable = "RINGMASTER_SESSION_WRITER"

const writtenSessions = 4

// writeUntilKilled continues the sessions in a file, and prints each version that the store has acknowledged.
func writeUntilKilled(path string) {
	b, err := openBolt(path, generous)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var out sync.Mutex
	for i := range writtenSessions {
		go func() {
			for {
				was, _, err := b.Load(context.Background(), numbered(i))
				is := was.next(7)
				if err == nil {
					err = b.Commit(context.Background(), numbered(i), was, is, written(i, is.Version))
				}
				out.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println(i, is.Version)
				}
				out.Unlock()
			}
		}()
	}
	select {}
}

// written is the record of a version.
func written(session int, version uint64) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("%d:%d ", session, version), 100))
}

// A process that stores sessions is killed again and again, in the midst of it. What it was told is stored, is there, and whole.
func TestBoltSurvivesSIGKILL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	var acknowledged [writtenSessions]uint64
	for round := range 15 {
		killedWhileWriting(t, path, &acknowledged, 5+rand.IntN(30))
		b, err := openBolt(path, generous)
		must(t, err)
		for i, least := range acknowledged {
			stamp, data, err := b.Load(t.Context(), numbered(i))
			if err != nil || stamp.Version < least || string(data) != string(written(i, stamp.Version)) {
				t.Fatalf("round %d, session %d: version %d, acknowledged %d, %d bytes, %v", round, i, stamp.Version, least, len(data), err)
			}
		}
		must(t, b.Close())
	}
	t.Logf("versions %v", acknowledged)
}

// killedWhileWriting starts a writer, and kills it after so many acknowledgements, at some moment before the next.
func killedWhileWriting(t *testing.T, path string, acknowledged *[writtenSessions]uint64, lines int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerVariable+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	n := 0
	for scanner := bufio.NewScanner(out); scanner.Scan(); n++ { // to the end: what was printed was acknowledged
		var i int
		var version uint64
		if _, err := fmt.Sscan(scanner.Text(), &i, &version); err != nil {
			t.Errorf("the writer says %q", scanner.Text())
			break
		}
		acknowledged[i] = max(acknowledged[i], version)
		if n == lines {
			time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if n < lines {
		t.Fatalf("the writer ended after %d lines", n)
	}
}
