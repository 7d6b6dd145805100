// The package's public face: what a program of one's own builds with. Everything else may change without notice.

export { type RetainedBytes, retainBytes } from './base/buffer-pool.ts';
export { BlockError, type BlockErrorCode, OperationError, UsageError } from './base/errors.ts';
export { type Closeable, Stopper } from './base/lifecycle.ts';
export { createLogger, LOG_LEVELS, type Logger, type LogLevel, silentLogger } from './base/log.ts';
export type { MaybePromise } from './base/maybe.ts';
export type { BlockDevice, DeviceLimits, Extent } from './blockdev/block-device.ts';
export { MemoryDevice } from './blockdev/memory-device.ts';
export { applyMutation, type Mutation, type MutationKind, mutationRange } from './blockdev/mutation.ts';
export { type OpenNbdOptions, openNbdDevice } from './blockdev/nbd-client/index.ts';
export { type OpenImageOptions, openImage } from './blockdev/open-image.ts';
export type {
  ProcessStatus,
  VerifyProgress,
  VerifyResult,
  VolumeState,
  VolumeStatus,
} from './control/status.ts';
export { alignFilter } from './filter/align-filter.ts';
export { AroundFilter, type Call, ObservingFilter } from './filter/around-filter.ts';
export { buildChain, type ChainContext, type ChainLink } from './filter/chain.ts';
export { createFilterContext, type FilterContext } from './filter/context.ts';
export { defineFilter, type FilterDefinition } from './filter/define-filter.ts';
export type { FilterSpec } from './filter/filter-spec.ts';
export type { OptionSchema, OptionValues } from './filter/option-schema.ts';
export { PassThrough } from './filter/pass-through.ts';
export { describeFilters, filterLink, parseFilterSpec, registerFilter } from './filter/registry.ts';
export { type AccessRules, OPEN_TO_ALL, parsePlaces } from './nbd/access.ts';
export type { ExportSpec, ExportVisibility } from './nbd/exports.ts';
export type { BoundAddress, ListenAddress } from './nbd/listen-address.ts';
export { type NbdServer, type NbdServerOptions, startNbdServer } from './nbd/server.ts';
export { Agent, type AgentOptions } from './repagent/agent.ts';
export { loadAgentId } from './repagent/agent-id.ts';
export { type Hub, type HubOptions, startHub } from './rephub/hub.ts';
