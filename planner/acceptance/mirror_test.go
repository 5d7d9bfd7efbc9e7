package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

func TestMirrorOnOneMachine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/tool", "osism/missing")

	require.Contains(t, s.planner("mirror").exits(1), "ended with failures")
	s.requireMirrored("osism/tool")
	require.Equal(t, run.StateFailed, s.status().State)
	records := s.failed()
	require.Len(t, records, 1)
	require.Equal(t, s.source.Host()+"/osism/missing", records[0].Repository)

	s.push("osism/missing", "1")
	require.Contains(t, s.planner("republish", s.source.Host()+"/osism/missing").exits(0), "is done")
	s.requireMirrored("osism/missing")
	require.Empty(t, s.failed())

	s.source.ResetRequests()
	s.planner("mirror").exits(0)
	require.Zero(t, s.source.Pulls())
	require.Equal(t, run.Tally{Total: 3, Unchanged: 3}, s.status().Images)
}

func TestInterruptedMirrorGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2", "3")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other")
	s.env["CHUNK_SIZE"], s.env["WORKER_CONCURRENCY"] = "1", "1"
	open := s.gate(blobs)
	first := s.planner("mirror")
	s.waitFor(blobs)

	first.signal(syscall.SIGINT)
	first.says("Stopping")
	open()
	said := first.exits(4)
	interrupted := runID(t, said)
	require.Contains(t, said, "interrupted; the same command continues run "+interrupted)
	require.Equal(t, 1, s.source.Pulls())

	said = s.planner("mirror").exits(0)
	require.Contains(t, said, "Continuing run "+interrupted)
	s.requireMirrored("osism/tool", "osism/other")
	require.Equal(t, 4, s.source.Pulls())
	require.Equal(t, run.Tally{Total: 4, Copied: 4}, s.status().Images)
}

// TestDataDirIsForOne: only one process with a worker can use DATA_DIR. Other commands share it.
func TestDataDirIsForOne(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.write("osism/tool")
	open := s.gate(blobs)
	first := s.planner("mirror")
	s.waitFor(blobs)

	started := time.Now()
	said := s.planner("mirror").exits(3)
	require.Less(t, time.Since(started), 10*time.Second, "it waits for nothing")
	require.Equal(t, fmt.Sprintf("planner: DATA_DIR=%s is already in use by process %d: wait for it, or set another DATA_DIR\n",
		s.env["DATA_DIR"], first.command.Process.Pid), said)

	// Commands without a worker use the broker of the first process.
	require.Equal(t, run.StateRunning, s.status().State)
	require.Empty(t, s.failed())
	require.Contains(t, s.planner("republish", "--all").exits(0), "Nothing to republish.")
	s.planner("check").exits(0)
	open()
	first.exits(0)
	s.requireMirrored("osism/tool")
}

// TestMirrorWithoutSkopeo: the message says how to mirror without skopeo, and that works.
func TestMirrorWithoutSkopeo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	_, err := s.source.PushIndex("osism/tool", "3", registrytest.MultiPlatform("3", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	s.write("osism/tool")
	s = s.with("COPY_ENGINE", "skopeo", "SKOPEO_PATH", "/no/such/skopeo")
	said := s.planner("mirror").exits(2)
	require.True(t, strings.HasSuffix(said, "planner: skopeo is not installed: program \"/no/such/skopeo\" not found; "+
		"install skopeo 1.9.3 or newer, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin\n"), said)

	s = s.with("COPY_ENGINE", "builtin")
	s.planner("mirror").exits(0)
	s.requireMirrored("osism/tool")
	require.Equal(t, run.Tally{Total: 3, Copied: 3}, s.status().Images)
	require.Equal(t, 7, s.status().Pulls)
	require.Equal(t, 7, s.source.Pulls())
}

// TestTrust: with either engine, images that SIGNATURE_POLICY rejects are not copied. An unreadable
// policy is wrong usage.
func TestTrust(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other")
	path := filepath.Join(t.TempDir(), "policy.json")
	s = s.with("SIGNATURE_POLICY", path)
	said := s.planner("mirror").exits(2)
	require.Contains(t, said, "SIGNATURE_POLICY: the signature policy cannot be read: open "+path+": no such file or directory\n")
	write := func(text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write(`{"default":`)
	require.Contains(t, s.planner("mirror").exits(2), "SIGNATURE_POLICY: the signature policy cannot be read: "+path+": unexpected end of JSON input\n")
	write(fmt.Sprintf(`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{%q:[{"type":"reject"}]}}}`, s.source.Host()+"/osism/tool:1"))
	if !policy.CanVerify {
		require.Contains(t, s.planner("mirror").exits(2), "SIGNATURE_POLICY: this program cannot enforce the signature policy: "+path)
		return
	}
	said = s.planner("check").exits(1)
	require.Contains(t, said, "1 rejected by SIGNATURE_POLICY:\n")
	require.Contains(t, s.with("SIGNATURE_POLICY", "").planner("check", "--signatures").exits(2), "--signatures needs SIGNATURE_POLICY")
	for _, engine := range []string{"skopeo", "builtin"} {
		s := s.with("COPY_ENGINE", engine)
		s.planner("mirror").exits(1)
		s.requireMirrored("osism/other")
		require.Equal(t, 1, s.status().Images.Failed, engine)
		require.Contains(t, s.failed()[0].Images[0].Reason, "rejected by the signature policy "+path+": ")
		require.Zero(t, s.source.Count(of("osism/tool", blobs)))
	}
	// The policy of the system counts, too.
	system := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(system, []byte(`{"default":[{"type":"reject"}]}`), 0o600))
	s.push("osism/other", "2")
	for _, engine := range []string{"skopeo", "builtin"} {
		s := s.with("COPY_ENGINE", engine, "CONTAINERS_POLICY_JSON", system)
		s.planner("mirror").exits(1)
		require.Equal(t, 2, s.status().Images.Failed, engine)
	}
	write(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/no/such/key.gpg"}]}`)
	require.Contains(t, s.planner("mirror").exits(2), "SIGNATURE_POLICY: the signature policy cannot be read: "+path+": open /no/such/key.gpg: no such file or directory\n")
	write(`{"default":[{"type":"signedBye"}]}`)
	require.Contains(t, s.planner("mirror").exits(2), "SIGNATURE_POLICY: the signature policy cannot be read: "+path+": ")
}

// TestSignaturePolicy: with COPY_ENGINE=builtin, a program that can check signatures copies nothing
// that the policy rejects. A program that cannot check them does not start.
func TestSignaturePolicy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other")
	path := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil,
		`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{%q:[{"type":"reject"}]}}}`, s.source.Host()+"/osism/tool"), 0o600))
	s = s.with("COPY_ENGINE", "builtin", "CONTAINERS_POLICY_JSON", path, "SKOPEO_PATH", "/no/such/skopeo")
	if !policy.CanVerify {
		said := s.planner("mirror").exits(2)
		require.Contains(t, said, "planner: this program cannot enforce the signature policy: "+path+" asks for more than insecureAcceptAnything; "+
			"set COPY_ENGINE=skopeo, or build with -tags containers_image_openpgp\n")
		return
	}
	s.planner("mirror").exits(1)
	s.requireMirrored("osism/other")
	require.Equal(t, run.Tally{Total: 3, Copied: 1, Failed: 2}, s.status().Images)
	for _, image := range s.failed()[0].Images {
		require.Equal(t, 1, image.Attempts)
		require.Contains(t, image.Reason, "rejected by the signature policy "+path)
	}
	require.Zero(t, s.source.Count(of("osism/tool", blobs)))
}
