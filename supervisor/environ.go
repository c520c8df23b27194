package supervisor

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// passedByDefault are the supervisor's variables that a worker gets: what programs need to find their files, their language, their certificates and proxies, and what steers Python, GPUs and the libraries
// of numerical work. Everything else a pool names in env_pass, so that a secret in the supervisor's environment is not every model's. A '*' at the end stands for any ending.
var passedByDefault = []string{
	// the system
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TZDIR", "TMPDIR", "TMP", "TEMP", "XDG_*", "LD_LIBRARY_PATH", "MALLOC_*",
	// the network
	"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
	// Python and Go
	"PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "GORACE", "GOCOVERDIR",
	// GPUs
	"CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*", "NCCL_*", "HIP_*", "ROCR_*", "ROCM_*", "HSA_*", "MIOPEN_*", "AMD_LOG_LEVEL", "GPU_DEVICE_ORDINAL", "ONEAPI_*", "SYCL_*", "ZE_*", "UCX_*", "GLOO_*",
	// numerical work
	"OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "NUMEXPR_*", "ORT_*", "GGML_*", "LLAMA_*", "TORCH*", "PYTORCH_*", "TRITON_*", "JAX_*", "XLA_*", "TF_CPP_*", "TF_FORCE_*", "TF_GPU_*", "TF_XLA_*", "VLLM_*",
	"HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "SAFETENSORS_*", "TOKENIZERS_*",
	// ringmaster: a worker that calls other pools finds the socket; tokenKey is not among them
	"RINGMASTER_*", "RUNTIME_DIRECTORY",
}

// tokenKey is who somebody is that calls a server, and not who its workers are.
const tokenKey = "RINGMASTER_TOKEN"

// inherited returns the variables of environ, each NAME=value, that a worker gets: those named by default or in pass.
func inherited(environ, pass []string) []string {
	var env []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if forSupervisorOnly(name) || (name == tokenKey || !namedIn(passedByDefault, name)) && !namedIn(pass, name) {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// forSupervisorOnly reports whether a variable is one by which systemd or go-plugin talks to the supervisor, or by which the supervisor talks to a worker: no pattern passes it on.
func forSupervisorOnly(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC", cookieKey, workerIDKey:
		return true
	}
	return strings.HasPrefix(name, "PLUGIN_")
}

func namedIn(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return name == p || open && strings.HasPrefix(name, prefix)
	})
}

// validPattern reports whether p is NAME, PREFIX* or *.
func validPattern(p string) bool {
	name, open := strings.CutSuffix(p, "*")
	if name == "" {
		return open
	}
	for i, r := range name {
		switch {
		case r == '_', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', i > 0 && r >= '0' && r <= '9':
		default:
			return false
		}
	}
	return true
}

// env is the worker's environment: what it inherits, its account's if it has one of its own, the pool's, and what the protocol says. Of two with the same name the later counts.
func (s *slot) env() []string {
	cfg := s.cfg
	env := append(inherited(os.Environ(), cfg.EnvPass), accountEnv(cfg.User)...)
	for k, v := range cfg.Env {
		env = append(env, k+"="+v)
	}
	if v, ok := visibleDevices(cfg.Devices, s.index, s.pool.sup.devices); ok {
		env = append(env, "CUDA_VISIBLE_DEVICES="+v)
	}
	return append(env,
		"RINGMASTER_POOL="+cfg.Name,
		"RINGMASTER_SLOT="+strconv.Itoa(s.index),
		"RINGMASTER_CONCURRENCY="+strconv.Itoa(cfg.Concurrency),
		"RINGMASTER_MAX_MESSAGE="+strconv.Itoa(s.pool.sup.cfg.MaxMessage),
	)
}
