// libnvrtc.so for machines without one: "compiles" by naming the entry points of the source in PTX that only the
// stub driver beside it can run. A source with `#error` in it does not compile.
//
// STUB_NVRTC_LOG=FILE  appends the name and the options of each compilation
// STUB_NVRTC_PTX=8.0   the PTX version it writes
// STUB_NVRTC_VERSION=12.4  the CUDA it is of (13.0)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>

#define API extern "C" __attribute__((visibility("default"))) int

struct Program {
    std::string name, source, ptx, log;
};

static bool identifier(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; }

API nvrtcVersion(int* major, int* minor) {
    const char* version = getenv("STUB_NVRTC_VERSION");
    return sscanf(version ? version : "13.0", "%d.%d", major, minor) == 2 ? 0 : 1;
}

API nvrtcCreateProgram(Program** out, const char* source, const char* name, int headers, const char** texts, const char** names) {
    for (int i = 0; i < headers; ++i)
        if (strncmp(names[i], "common/", 7) != 0 || strlen(texts[i]) == 0) return 3;
    *out = new Program{name, source, "", ""};
    return 0;
}

API nvrtcCompileProgram(Program* program, int count, const char** options) {
    std::string target = "sm_80";
    if (const char* path = getenv("STUB_NVRTC_LOG")) {
        FILE* file = fopen(path, "a");
        fprintf(file, "%s", program->name.c_str());
        for (int i = 0; i < count; ++i) fprintf(file, " %s", options[i]);
        fprintf(file, "\n");
        fclose(file);
    }
    for (int i = 0; i < count; ++i)
        if (const char* arch = strstr(options[i], "--gpu-architecture=")) {
            target = "sm_" + std::string(strchr(arch, '_') + 1);
        }
    if (program->source.find("#error") != std::string::npos) {
        program->log = program->name + "(1): error: #error directive";
        return 6;
    }
    const char* version = getenv("STUB_NVRTC_PTX");
    program->ptx = std::string("// Cuda compilation tools, stub\n.version ") + (version ? version : "8.0") + "\n.target " + target + "\n";
    const std::string& text = program->source;
    for (size_t at = 0; (at = text.find("extern \"C\" __global__", at)) != std::string::npos; ++at) {
        size_t end = text.find(')', at);
        // The name stands before the parameter list; `__launch_bounds__(n)` may stand before the name.
        size_t open = text.find('(', at);
        if (text.compare(open - strlen("__launch_bounds__"), strlen("__launch_bounds__"), "__launch_bounds__") == 0) open = text.find('(', end);
        size_t start = open;
        while (identifier(text[start - 1])) --start;
        program->ptx += ".visible .entry " + text.substr(start, open - start) + "(\n)\n";
    }
    return 0;
}

API nvrtcGetPTXSize(Program* program, size_t* size) {
    *size = program->ptx.size() + 1;
    return 0;
}

API nvrtcGetPTX(Program* program, char* out) {
    memcpy(out, program->ptx.c_str(), program->ptx.size() + 1);
    return 0;
}

API nvrtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return 0;
}

API nvrtcGetProgramLog(Program* program, char* out) {
    memcpy(out, program->log.c_str(), program->log.size() + 1);
    return 0;
}

API nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return 0;
}
